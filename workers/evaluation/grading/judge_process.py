"""The dispatcher's end of one judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import IO

from workers.evaluation.grading.messages import (
    MEMORY_BYTES,
    OUT_OF_MEMORY,
    Lines,
    Reply,
    decode_reply,
)

JUDGE = (sys.executable, "-m", "workers.evaluation.grading.judge")
START_SECONDS = 120.0
_CHUNK = 1 << 16


@dataclass(eq=False)
class AssignedSet:
    """What some judges were told."""

    line: bytes
    most: int
    """Judges that it may have."""
    unable: Reply | None = None
    """Why the judge that last tried to begin with it could not."""


@dataclass(eq=False, slots=True)
class Asked:
    """A question that has no reply yet."""

    assigned: AssignedSet
    inquiry: int
    ticket: int
    seconds: float
    """Longest time that the reply may take."""
    line: bytes
    failures: int = 0
    """Judges that died on it or could not work."""


class JudgeEnded(Exception):
    """A judge has died, or says what no judge says."""


class JudgeProcess:
    """A judge that was started for one set; one question at a time."""

    def __init__(self, assigned: AssignedSet) -> None:
        """Start it.

        Raises OSError when there can be no process.
        """
        self.assigned = assigned
        self.asked: Asked | None = None
        self.ready = False
        """Whether it has begun with its assignment."""
        self.deadline = monotonic() + START_SECONDS
        self._unsent = memoryview(assigned.line)
        self._lines = Lines()
        # In a session of its own it dies with all that it has started.
        self._process = subprocess.Popen(
            [*JUDGE, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        for descriptor in (self.questions, self.replies):
            os.set_blocking(descriptor, False)

    @property
    def questions(self) -> int:
        """Descriptor that is written to."""
        return _pipe(self._process.stdin).fileno()

    @property
    def replies(self) -> int:
        """Descriptor that is read from."""
        return _pipe(self._process.stdout).fileno()

    @property
    def idle(self) -> bool:
        """Whether it can be asked."""
        return self.ready and self.asked is None

    @property
    def unsent(self) -> bool:
        """Whether there is something left that the pipe could not take."""
        return bool(self._unsent)

    def ask(self, asked: Asked) -> None:
        """Put a question to it; its time runs from now on."""
        self.asked = asked
        self.deadline = monotonic() + asked.seconds
        self._unsent = memoryview(asked.line)
        self.send()

    def send(self) -> None:
        """Write what the pipe takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self.questions, self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It is dead, as the end of its replies will tell.
            self._unsent = memoryview(b"")

    def receive(self) -> Reply | None:
        """Read what is there; its reply, once that is complete.

        Raises JudgeEnded when there will be no more.
        """
        chunk = os.read(self.replies, _CHUNK)
        if not chunk:
            raise JudgeEnded
        lines = self._lines.split(chunk)
        return self._expected(*lines) if lines else None

    def _expected(self, *lines: bytes) -> Reply:
        try:
            (line,) = lines
            reply = decode_reply(line)
        except (ValueError, TypeError, AttributeError) as error:
            raise JudgeEnded from error
        if self.idle or reply.ticket != (self.asked.ticket if self.asked else 0):
            raise JudgeEnded
        return reply

    def end(self) -> str:
        """End it at once, with all that it has started; how it ended by itself, in words."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            _pipe(stream).close()
        return _ending(status)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _ending(status: int) -> str:
    if status == OUT_OF_MEMORY:
        return f"needed more than {MEMORY_BYTES >> 30} GiB of memory"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit code {status}"
