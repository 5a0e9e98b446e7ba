"""A stop that is asked for, and answered at the next safe point."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType


class StopRequested(Exception):
    """Raised at a safe point after a stop was asked for."""


class StopSignal:
    """Remembers SIGTERM and SIGINT; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take over the signals of this process."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise StopRequested if a stop was asked for."""
        if self.requested:
            raise StopRequested


def stop_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies, even by SIGKILL.

    Only Linux can (prctl PR_SET_PDEATHSIG); elsewhere nothing happens. If
    `parent` is gone already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
