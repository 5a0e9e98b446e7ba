"""A stop that is asked for, and answered at the next safe point."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(Exception):
    """Raised at a safe point after a stop was asked for."""


class StopSignal:
    """Remembers SIGTERM, SIGINT and SIGHUP; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take over the signals of this process; under nohup SIGHUP stays ignored."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise StopRequested if a stop was asked for."""
        if self.requested:
            raise StopRequested
