"""Keeps a lease alive: on progress, and through one long call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_CALL = 1800.0
"""Seconds after which even a long call counts as stuck."""


class Renewer:
    """Renews a lease when its holder makes progress, four times per period at most.

    `renew` raises LeaseLost when another worker took over. `look` is called
    along with it on progress: the time to see what else has changed.
    """

    def __init__(
        self,
        renew: Callable[[], None],
        lease_seconds: float,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._renew = renew
        self._look = look
        self._interval = lease_seconds / 4
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Note progress."""
        if time.monotonic() - self._last >= self._interval:
            self._renew()
            self._last = time.monotonic()
            self._look()

    @contextmanager
    def through(self, longest: float = LONGEST_CALL) -> Iterator[None]:
        """Renew from a thread during one call that cannot report progress.

        Writing gigabytes is such a call. After `longest` seconds the lease is
        left to run out. What goes wrong in the thread shows at the holder's
        next write.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done, longest), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, done: threading.Event, longest: float) -> None:
        end = time.monotonic() + longest
        while not done.wait(self._interval) and time.monotonic() < end:
            try:
                self._renew()
            except Exception:
                # The holder's own next write tells what happened.
                return
