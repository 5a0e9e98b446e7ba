"""Reading what a process writes until it ends, is late or writes too much."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from typing import Self, cast, get_args

from workers.evaluation.sandbox.bootstrap import STARTED
from workers.evaluation.sandbox.run import Ending, Limits, Report, Run, SandboxError

START_SECONDS = 60.0
"""Until the program's first line; a machine under load is slow, not broken."""

_CHUNK = 1 << 16
_MOST_VERDICT = 1 << 16
_SIGNALLED = 128


class Watch:
    """Everything that is read of one process, and why it has to end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        verdict: socket.socket,
        limits: Limits,
        abandoned: socket.socket | None = None,
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._limits = limits
        self._output, self._errors, self._verdict = bytearray(), bytearray(), bytearray()
        self._texts = {
            process.stdout.fileno(): self._output,
            process.stderr.fileno(): self._errors,
            verdict.fileno(): self._verdict,
        }
        self._abandoned = abandoned
        self._process_fd = os.pidfd_open(process.pid)
        self._ending: Ending = "exited"
        self._launched_at = time.monotonic()
        self._started_at: float | None = None
        self._ended_at = self._launched_at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._process_fd)

    def until_the_end(self) -> None:
        """Return when the process has ended, or has to."""
        with selectors.DefaultSelector() as selector:
            for descriptor in self._texts:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            selector.register(self._process_fd, selectors.EVENT_READ)
            if self._abandoned is not None:
                selector.register(self._abandoned, selectors.EVENT_READ)
            while not self._over(selector):
                pass
        self._ended_at = time.monotonic()

    def read_the_rest(self) -> None:
        """Read what is still in the pipes when all who could write are gone."""
        for descriptor in self._texts:
            while self._read(descriptor):
                pass

    def run(self, token: str) -> Run:
        """What came of it; `token` marks the report.

        Raises:
            SandboxError: The program was never begun.
        """
        if STARTED not in self._verdict:
            raise SandboxError(f"the sandbox did not start Python: {self._last_words()}")
        status = self._process.returncode
        word = self._word(token.encode())
        ended_by_us = self._ending != "exited"
        return Run(
            ending=self._ending if ended_by_us else _ending(status, word),
            status=None if ended_by_us else _status(status),
            output=bytes(self._output[: self._limits.output_bytes]),
            errors=bytes(self._errors[-self._limits.output_bytes :]),
            report=_report(word),
            seconds=self._ended_at - (self._started_at or self._launched_at),
        )

    def _over(self, selector: selectors.BaseSelector) -> bool:
        ready = [key.fd for key, _ in selector.select(max(0.0, self._remaining()))]
        for descriptor in ready:
            if descriptor in self._texts and not self._read(descriptor):
                selector.unregister(descriptor)
        if self._started_at is None and STARTED in self._verdict:
            self._started_at = time.monotonic()
        if self._too_much():
            self._ending = "too_much_output"
        elif self._process_fd in ready:
            return True
        elif self._abandoned is not None and self._abandoned.fileno() in ready:
            self._ending = "killed"
        elif self._remaining() <= 0:
            self._ending = "timed_out"
        return self._ending != "exited"

    def _remaining(self) -> float:
        """Seconds that the process still has."""
        if self._started_at is None:
            return self._launched_at + START_SECONDS - time.monotonic()
        return self._started_at + self._limits.seconds - time.monotonic()

    def _too_much(self) -> bool:
        written = len(self._output) + len(self._errors)
        return written > self._limits.output_bytes or len(self._verdict) > _MOST_VERDICT

    def _read(self, descriptor: int) -> bool:
        """Read once; False at the end, or where there is nothing yet."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except (BlockingIOError, ConnectionResetError):
            return False
        self._texts[descriptor] += chunk
        return bool(chunk)

    def _word(self, token: bytes) -> str | None:
        """The word behind the last token; others may have written there too."""
        _, found, rest = self._verdict.rpartition(token + b" ")
        return rest.partition(b"\n")[0].decode(errors="replace") if found else None

    def _last_words(self) -> str:
        if self._ending == "timed_out":
            return f"nothing was heard for {START_SECONDS:g} s"
        text = self._errors.decode(errors="replace").strip()
        return text[-500:] or f"it ended with status {self._process.returncode}"


def _report(word: str | None) -> Report | None:
    if word == "out_of_memory":
        return "raised"
    return cast(Report, word) if word in get_args(Report) else None


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else _SIGNALLED - returncode


def _ending(returncode: int, word: str | None) -> Ending:
    if word == "out_of_memory":
        return "out_of_memory"
    return "killed" if _status(returncode) > _SIGNALLED else "exited"
