"""The process that serves all judges: `python -m workers.evaluation.grading.dispatcher`.

It stands between the worker and the judges, so that the thread that generates
only writes what is to be graded into a pipe, and no thread of this business
ever asks for the interpreter's lock in the worker. Its arguments are the
worker's process and the number of judges. It ends with the worker, and all
judges with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from time import monotonic
from types import FrameType

from hpo.parent import stop_with_parent
from workers.evaluation.grading.judge_process import Asked, AssignedSet, JudgeProcess
from workers.evaluation.grading.messages import (
    ASK,
    ASSIGN,
    FORGET,
    Lines,
    Reply,
    encode_reply,
)
from workers.evaluation.grading.staff import Staff

_CHUNK = 1 << 20
_INPUT, _OUTPUT = 0, 1
_REST_SECONDS = 0.004
"""After reading. To wake a process costs the one that writes some 30 µs, as long
as this one waits for it; so answers that are finished together wake it once."""
_BUSY_BYTES = 1 << 15
"""With so much at a time there is more to come, and no rest."""


class Dispatcher:
    """Reads from the worker, writes to it, and lets the staff do the rest."""

    def __init__(self, processes: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(_INPUT, selectors.EVENT_READ)
        self._rest_until: float | None = None
        self._staff = Staff(processes, self._selector, self._answer)
        self._sets: dict[int, AssignedSet] = {}
        self._lines = Lines()
        self._unsent = bytearray()
        self._open = True

    def run(self) -> None:
        """Serve until the worker's end of the pipe is closed."""
        os.set_blocking(_OUTPUT, False)
        try:
            while self._open:
                self._staff.serve()
                for key, events in self._selector.select(self._patience()):
                    self._attend(key, events)
                self._staff.end_overdue()
                self._end_rest()
        finally:
            self._staff.close()

    def _patience(self) -> float | None:
        """Seconds until there is something to do anyway; None for never."""
        rest = None if self._rest_until is None else max(0.0, self._rest_until - monotonic())
        limits = [limit for limit in (rest, self._staff.patience()) if limit is not None]
        return min(limits, default=None)

    def _end_rest(self) -> None:
        if self._rest_until is not None and self._rest_until <= monotonic():
            self._selector.register(_INPUT, selectors.EVENT_READ)
            self._rest_until = None

    def _attend(self, key: selectors.SelectorKey, events: int) -> None:
        if isinstance(key.data, JudgeProcess):
            self._staff.attend(key.data, events)
        elif key.fd == _INPUT:
            self._read()
        else:
            self._write()

    def _read(self) -> None:
        chunk = os.read(_INPUT, _CHUNK)
        self._open = bool(chunk)
        if len(chunk) < _BUSY_BYTES:
            self._selector.unregister(_INPUT)
            self._rest_until = monotonic() + _REST_SECONDS
        for line in self._lines.split(chunk):
            self._take(line)

    def _take(self, line: bytes) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == ASK:
            number, inquiry, ticket, seconds, question = rest.split(b" ", 4)
            assigned = self._sets[int(number)]
            self._staff.ask(Asked(assigned, int(inquiry), int(ticket), float(seconds), question))
        elif kind == FORGET:
            self._staff.forget(int(rest))
        elif kind == ASSIGN:
            number, most, assignment = rest.split(b" ", 2)
            self._sets[int(number)] = AssignedSet(assignment, int(most))

    def _answer(self, reply: Reply) -> None:
        if not self._unsent:
            self._selector.register(_OUTPUT, selectors.EVENT_WRITE)
        self._unsent += encode_reply(reply)

    def _write(self) -> None:
        try:
            del self._unsent[: os.write(_OUTPUT, self._unsent)]
        except BrokenPipeError:
            self._open = False
        if not self._unsent:
            self._selector.unregister(_OUTPUT)


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def main() -> None:
    """Serve the worker."""
    signal.signal(signal.SIGTERM, _leave)
    worker, processes = (int(argument) for argument in sys.argv[1:])
    stop_with_parent(worker)
    Dispatcher(processes).run()


if __name__ == "__main__":
    main()
