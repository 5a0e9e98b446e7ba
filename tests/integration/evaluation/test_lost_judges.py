"""Judges that hang, die, grow or never start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from grading_lab import ANY, graded, items, own_task

from hpo.spec.errors import InputError
from hpo.spec.tasks import PythonTask
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import NOT_GRADABLE


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PythonTask:
    return own_task(tmp_path_factory.mktemp("grader"))


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(2, item_seconds=20) as pool:
        yield pool


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("exit", "the grader's process ended with exit code 3"),
        ("segfault", "the grader's process was ended by SIGSEGV"),
        ("memory", "the grader's process needed more than 4 GiB of memory"),
        ("quit", "SystemExit: 4"),
        ("raise", "LookupError: no such thing"),
        ("odd", "splendid"),
    ],
)
def test_a_grader_that_fails_costs_its_answer(
    pool: GradingPool, task: PythonTask, answer: str, why: str
) -> None:
    before, lost, after = graded(pool, task, ["before", answer, "after"])
    assert (before.score, after.score) == (1, 1)
    assert (lost.category, lost.score) == (NOT_GRADABLE, 0)
    assert why in lost.detail


def test_a_grader_that_hangs_costs_its_answer_the_time_limit(task: PythonTask) -> None:
    answers = [f"fine {index}" for index in range(40)]
    answers[3], answers[17] = "sleep 600", "spin"
    calls: list[float] = []
    with GradingPool(2, item_seconds=3) as pool, pool.begin(task, ANY) as grading:
        for index, answer in enumerate(answers):
            grading.submit(index, 0, answer)
        found = grading.grades(lambda: calls.append(time.monotonic()))
        grades = [grade for some in found for grade in some]
    assert len(grades) == len(answers)
    for index, grade in enumerate(grades):
        if index in (3, 17):
            assert grade.category == NOT_GRADABLE
            assert grade.detail == "the grader took more than 3 s"
        else:
            assert grade.extracted == answers[index]
    # The lease is renewed while nothing comes in.
    assert max(late - early for early, late in pairwise(calls)) < 2.5


def test_what_a_killed_grader_has_started_dies_with_it(task: PythonTask) -> None:
    with GradingPool(1, item_seconds=1) as pool:
        (lost,) = graded(pool, task, ["children 98765"])
        assert lost.category == NOT_GRADABLE
        assert not [one for one in psutil.process_iter(["cmdline"]) if _is_sleep(one, "98765")]


def _is_sleep(process: psutil.Process, seconds: str) -> bool:
    return process.info["cmdline"] == ["sleep", seconds]


def test_a_judge_that_grows_is_replaced(task: PythonTask) -> None:
    answers = [word for index in range(5) for word in (f"leak {index}", f"process {index}")]
    with GradingPool(1) as pool:
        grades = graded(pool, task, answers)
    assert [grade.extracted for grade in grades[::2]] == answers[::2]
    assert len({grade.extracted for grade in grades[1::2]}) > 1


def test_a_judge_that_was_killed_from_outside_costs_nothing(task: PythonTask) -> None:
    with GradingPool(1) as pool, pool.begin(task, ANY) as grading:
        grading.submit(0, 0, "process")
        judge = int(str(grading.grades()[0][0].extracted))
        grading.submit(0, 1, "sleep 1")
        time.sleep(0.2)
        os.kill(judge, signal.SIGKILL)
        assert grading.grades()[0][1].extracted == "sleep 1"


@pytest.mark.parametrize(
    ("source", "kind", "why"),
    [
        ("import os; os._exit(7)", RuntimeError, "could start: it ended with exit code 7"),
        ("1 / 0", InputError, "grader.py:1: ZeroDivisionError"),
        ("def other(): ...", InputError, "no function 'grade'"),
    ],
)
def test_judges_that_cannot_start_are_one_error(
    pool: GradingPool, task: PythonTask, tmp_path: Path, source: str, kind: type, why: str
) -> None:
    with pytest.raises(kind, match=why):
        pool.begin(own_task(tmp_path, source), ANY)
    assert [grade.score for grade in graded(pool, task, ["a"])] == [1]


def test_judges_that_can_start_no_more_are_one_error(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    with GradingPool(1) as pool:
        pool.begin(task, items(3)).close()
        Path(task.path).unlink()
        with pool.begin(task, items(3)) as grading:
            for index in range(3):
                grading.submit(index, 0, "exit")
            with pytest.raises(InputError, match="no such file"):
                grading.grades()
        own_task(tmp_path)
        with pool.begin(task, items(3)) as grading:
            grading.submit(0, 0, "answer 0")
            assert grading.grades()[0][0].score == 1


def test_a_sandbox_that_breaks_says_nothing_about_answers(
    pool: GradingPool, task: PythonTask
) -> None:
    with pytest.raises(RuntimeError, match="the sandbox does not work: it is gone"):
        graded(pool, task, ["fine", "sandbox", "fine"])
    assert [grade.score for grade in graded(pool, task, ["fine"])] == [1]


def test_a_lost_dispatcher_is_an_error_and_replaced(task: PythonTask) -> None:
    before = set(psutil.Process().children())
    with GradingPool(1) as pool, pool.begin(task, items(1)) as grading:
        (dispatcher,) = set(psutil.Process().children()) - before
        (judge,) = dispatcher.children()
        grading.submit(0, 0, "sleep 600")
        dispatcher.kill()
        with pytest.raises(RuntimeError, match="serves the graders ended with exit code -9"):
            grading.grades()
        psutil.wait_procs([judge], timeout=10)
        assert not judge.is_running()
        for _ in range(2):
            with pool.begin(task, items(1)) as again:
                again.submit(0, 0, "answer 0")
                assert again.grades()[0][0].score == 1


WORKER = """
import os, sys, time
from hpo.spec.tasks import PythonTask
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import Item

task = PythonTask(type="python", path=sys.argv[1])
with GradingPool(3) as pool, pool.begin(task, [Item("", "")] * 3) as grading:
    for sample, answer in enumerate(("sleep 600", "spin", "fine")):
        grading.submit(0, sample, answer)
    child = os.fork()
    if child == 0:
        # It keeps the worker's ends of the pipes open.
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    grading.grades(lambda: print("graded", flush=True))
"""


def test_no_judge_outlives_a_killed_worker(task: PythonTask) -> None:
    command = [sys.executable, "-c", WORKER, task.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        assert worker.stdout.readline() == "graded\n"
        family = psutil.Process(worker.pid).children(recursive=True)
        family.remove(child)
        # The dispatcher and three judges.
        assert len(family) == 4
        worker.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    child.kill()
    assert not alive
