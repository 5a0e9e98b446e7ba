"""A line now and then, for a person who waits."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 10.0

Say = Callable[[str], None]


class Progress:
    """Says how far the work is, once in `SECONDS` at most; nothing about short work."""

    def __init__(self, say: Say | None = None) -> None:
        self._say = say
        self._last = time.monotonic()

    def __call__(self, what: str, done: int) -> None:
        """`done` of what has been done."""
        now = time.monotonic()
        if self._say is not None and now - self._last >= SECONDS:
            self._last = now
            self._say(f"preparing data: {done:,} {what}")
