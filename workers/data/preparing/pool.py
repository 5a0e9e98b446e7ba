"""Work on a stream in several processes, its results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from hpo.parent import stop_with_parent
from hpo.spec.errors import HpoError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks per process that wait for their turn, which bounds the memory."""


class InOrder(Generic[Task, Result]):
    """Applies what `make()` gives to every task and yields the results in order.

    `make` is called once in each process, so that a tokenizer, say, is loaded
    once. Up to `few` tasks are done in this process: starting others takes
    longer. The results are the same for any number of processes.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Task], Result]],
        *,
        few: int = 3,
        processes: int | None = None,
    ) -> None:
        self._make = make
        self._few = few
        self._processes = processes or available_processors()

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """The results, in the order of the tasks. Raises HpoError when a process is killed."""
        stream = iter(tasks)
        first = list(islice(stream, self._few + 1))
        if len(first) <= self._few or self._processes == 1:
            yield from map(self._make(), chain(first, stream))
            return
        context = multiprocessing.get_context("spawn")
        start = (self._make, os.getpid())
        try:
            with ProcessPoolExecutor(self._processes, context, _start, start) as pool:
                yield from self._drain(pool, chain(first, stream))
        except BrokenProcessPool:
            raise HpoError(
                "a process that prepared the data was killed, for lack of memory perhaps; "
                "free some memory and run the command again"
            ) from None

    def _drain(self, pool: ProcessPoolExecutor, tasks: Iterator[Task]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_work, task))
                if len(waiting) > self._processes * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """What a process of the pool made of itself when it was started."""

    function: Callable[..., Any]


def _start(make: Callable[[], Callable[..., object]], parent: int) -> None:
    # Ctrl-C reaches the whole group; the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_with_parent(parent)
    # One thread each: the processes share the machine already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _Worker.function = make()


def _work(task: Any) -> Any:
    return _Worker.function(task)
