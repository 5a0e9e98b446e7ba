"""The worker's end of the pipes to the judges."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from itertools import count
from select import select
from typing import IO

from workers.evaluation.grading.assignment import Assignment, encode_assignment
from workers.evaluation.grading.errors import GradersUnavailable
from workers.evaluation.grading.messages import (
    ASK,
    ASSIGN,
    FORGET,
    Lines,
    Question,
    Reply,
    decode_reply,
    encode_question,
)

DISPATCHER = (sys.executable, "-m", "workers.evaluation.grading.dispatcher")
_CHUNK = 1 << 20
_END_SECONDS = 10.0


class Judges:
    """The judges, by way of the process that serves them; for one thread.

    Nothing is read until somebody waits, and what a pipe cannot take at once is
    kept for the next time: asking never waits.
    """

    def __init__(self, processes: int) -> None:
        """Start that process, which starts up to so many judges.

        Raises GradersUnavailable when it cannot be started.
        """
        self._numbers = count(1)
        self._unsent: deque[memoryview] = deque()
        self._lines = Lines()
        self._askers: dict[int, Callable[[Reply], None]] = {}
        self.ended: str | None = None
        """How the process has ended, if it has; what was asked is lost."""
        self._process = _started(processes)
        os.set_blocking(self._questions, False)

    def number(self) -> int:
        """One that was never given before."""
        return next(self._numbers)

    def assign(self, assignment: Assignment, most: int) -> int:
        """Make a set known that may have so many judges; its number."""
        number = self.number()
        self._send(b"%s %d %d %s" % (ASSIGN, number, most, encode_assignment(assignment)))
        return number

    def ask(
        self,
        assigned: int,
        inquiry: int,
        seconds: float,
        question: Question,
        asker: Callable[[Reply], None],
    ) -> None:
        """Send a question on a set; `asker` is called with its reply while somebody waits."""
        self._askers[question.ticket] = asker
        header = b"%s %d %d %d %f " % (ASK, assigned, inquiry, question.ticket, seconds)
        self._send(header + encode_question(question))

    def forget(self, inquiry: int, tickets: list[int]) -> None:
        """Want no more replies to an inquiry, of which these tickets are open."""
        for ticket in tickets:
            self._askers.pop(ticket, None)
        self._send(b"%s %d\n" % (FORGET, inquiry))

    def wait(self, seconds: float) -> None:
        """Wait until replies come, at most so long, and hand them to who has asked.

        Raises GradersUnavailable when no more can come.
        """
        if self.ended is not None:
            raise GradersUnavailable(self.ended)
        writable = [self._questions] if self._unsent else []
        readable, writable, _ = select([self._replies], writable, [], seconds)
        if writable:
            self._flush()
        if readable:
            self._read()

    def close(self) -> None:
        """End all judges."""
        self.ended = self.ended or "the pool of graders was closed"
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    @property
    def _questions(self) -> int:
        return _pipe(self._process.stdin).fileno()

    @property
    def _replies(self) -> int:
        return _pipe(self._process.stdout).fileno()

    def _send(self, line: bytes) -> None:
        self._unsent.append(memoryview(line))
        self._flush()

    def _flush(self) -> None:
        if self.ended is not None:
            self._unsent.clear()
        try:
            while self._unsent:
                sent = os.write(self._questions, self._unsent[0])
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    self._unsent.popleft()
        except BlockingIOError:
            return
        except BrokenPipeError:
            # Who waits for the replies will be told.
            self._unsent.clear()

    def _read(self) -> None:
        chunk = os.read(self._replies, _CHUNK)
        if not chunk:
            status = self._process.wait()
            self.ended = (
                f"the process that serves the graders ended with exit code {status}; "
                "see its errors above"
            )
            raise GradersUnavailable(self.ended)
        for line in self._lines.split(chunk):
            reply = decode_reply(line)
            asker = self._askers.pop(reply.ticket, None)
            if asker is not None:
                asker(reply)


def _started(processes: int) -> subprocess.Popen[bytes]:
    # A new program, not a fork: the engines' threads and locks stay behind. A
    # session of its own, as a Ctrl-C is for the worker to answer.
    command = [*DISPATCHER, str(os.getpid()), str(processes)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise GradersUnavailable(f"no process for grading could start: {error}") from error


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
