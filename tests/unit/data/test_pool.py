from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from hpo.spec.errors import HpoError
from workers.data.preparing.pool import InOrder


def squarer() -> Callable[[int], int]:
    return lambda number: number * number


def who() -> Callable[[int], int]:
    return lambda number: os.getpid()


def refuser() -> Callable[[int], int]:
    def refuse(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    return refuse


def victim() -> Callable[[int], int]:
    def die(number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    return die


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_results_come_in_order_whatever_the_number_of_processes(processes: int, count: int) -> None:
    found = InOrder(squarer, processes=processes).map(range(count))
    assert list(found) == [number * number for number in range(count)]


def test_few_tasks_start_no_process() -> None:
    assert set(InOrder(who, few=4, processes=2).map(range(4))) == {os.getpid()}
    assert os.getpid() not in set(InOrder(who, few=4, processes=2).map(range(5)))


def test_what_a_task_raises_arrives() -> None:
    found = InOrder(refuser, processes=2).map(iter(range(1000)))
    with pytest.raises(ValueError, match="seven"):
        list(found)


def test_a_killed_process_is_told() -> None:
    with pytest.raises(HpoError, match="was killed"):
        list(InOrder(victim, processes=2).map(range(50)))


def test_no_more_is_read_than_is_soon_worked_on() -> None:
    read: list[int] = []

    def tasks() -> object:
        for number in range(200):
            read.append(number)
            yield number

    results = InOrder(squarer, processes=2).map(tasks())  # type: ignore[arg-type]
    for _ in range(3):
        next(results)
    assert len(read) < 20
    results.close()  # type: ignore[attr-defined]
