"""Times of two ways that take turns, so that whatever else runs hinders both alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch


@dataclass(frozen=True)
class Pair:
    """Seconds of two ways, turn by turn."""

    ours: list[float]
    other: list[float]

    @property
    def speed(self) -> float:
        """How many times faster ours is: the median over the turns."""
        return median(b / a for a, b in zip(self.ours, self.other, strict=True))


def turns(ours: Callable[[], object], other: Callable[[], object], *, count: int) -> Pair:
    """Time both ways `count` times in turn, each in every second turn the first."""
    pair = Pair([], [])
    for turn in range(count):
        ways = [(ours, pair.ours), (other, pair.other)]
        for act, seconds in ways if turn % 2 else reversed(ways):
            seconds.append(seconds_of(act))
    return pair


def seconds_of(act: Callable[[], object]) -> float:
    """Wall time, with what was given to a GPU done."""
    _finish()
    started = perf_counter()
    act()
    _finish()
    return perf_counter() - started


def load() -> str:
    """The load average, which tells how far to trust a time."""
    return f"Load average {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} thread(s)."


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
