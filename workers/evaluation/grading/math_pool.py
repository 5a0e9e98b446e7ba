"""Judging processes that can be killed over a single item."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Self

from workers.evaluation.grading.math_judge import READY, RIGHT, WRONG

JUDGE = (sys.executable, "-m", "workers.evaluation.grading.math_judge")

_START_SECONDS = 120.0


class Judge:
    """One judging process, started when it is first asked and replaced after a kill."""

    def __init__(self, command: Sequence[str], item_seconds: float) -> None:
        self._command = command
        self._item_seconds = item_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def is_right(self, reference: str, answer: str) -> bool:
        """Whether the answer is right; one that hangs or ends the process is wrong.

        Raises RuntimeError when no process can be started.
        """
        process = self._process or self._start()
        question = json.dumps([reference, answer]).encode() + b"\n"
        reply = _exchange(process, question, self._item_seconds)
        if reply not in (RIGHT, WRONG):
            self.kill()
        return reply == RIGHT

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # A new program, not a fork: the engines' threads and locks stay behind.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        if _read_byte(_pipe(self._process.stdout), _START_SECONDS) != READY:
            self.kill()
            raise RuntimeError(f"no process for grading: {' '.join(self._command)} did not start")
        return self._process


class MathPool:
    """Judges in parallel; their processes start with the first items."""

    def __init__(
        self, processes: int, *, item_seconds: float = 10.0, command: Sequence[str] = JUDGE
    ) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="math-judge")
        self._judges = [Judge(command, item_seconds) for _ in range(processes)]
        self._idle: SimpleQueue[Judge] = SimpleQueue()
        for judge in self._judges:
            self._idle.put(judge)

    def grade(
        self,
        answers: Sequence[str],
        references: Sequence[str],
        on_progress: Callable[[], None] | None = None,
    ) -> list[bool]:
        """Judge all items; `on_progress` is called after each, in the calling thread."""
        futures = [
            self._threads.submit(self._judge, reference, answer)
            for answer, reference in zip(answers, references, strict=True)
        ]
        try:
            for future in as_completed(futures):
                future.result()
                if on_progress is not None:
                    on_progress()
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(cancel_futures=True)
        for judge in self._judges:
            judge.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _judge(self, reference: str, answer: str) -> bool:
        judge = self._idle.get()
        try:
            return judge.is_right(reference, answer)
        finally:
            self._idle.put(judge)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _exchange(process: subprocess.Popen[bytes], question: bytes, seconds: float) -> bytes:
    try:
        _pipe(process.stdin).write(question)
    except BrokenPipeError:
        return b""
    return _read_byte(_pipe(process.stdout), seconds)


def _read_byte(stream: IO[bytes], seconds: float) -> bytes:
    """One byte; none when the stream ended or nothing came in time."""
    readable, _, _ = select.select([stream], [], [], seconds)
    return os.read(stream.fileno(), 1) if readable else b""
