"""Ways that take turns in one process, so that whatever else runs hinders all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time

HEAD = "median s | bare / way | fastest s | bare / way | least CPU s | bare / way"
RULE = "---:|---:|---:|---:|---:|---:"
READING = (
    "Above 1 ours is faster: by the clock, the median over the turns and the fastest turn of each "
    "(other work on the same cores can only make a turn longer), and by the processor time of this "
    "process, the least of each."
)


@dataclass
class Way:
    """One way to do the same work, and the seconds it took, turn by turn."""

    name: str
    act: Callable[[], object]
    before: Callable[[], object] = lambda: None
    """Makes ready for a turn; not timed."""
    seconds: list[float] = field(default_factory=list)
    """By the clock."""
    busy: list[float] = field(default_factory=list)
    """By the processor, of all threads of this process but of no other process."""

    def turn(self) -> None:
        """Do it once."""
        self.before()
        started, busy = perf_counter(), process_time()
        self.act()
        self.busy.append(process_time() - busy)
        self.seconds.append(perf_counter() - started)

    def speed(self, other: Way) -> float:
        """How many times faster than another it is by the clock: the median over the turns."""
        return median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))

    def best(self, other: Way) -> float:
        """How many times faster than another it is by the clock, each at its fastest turn.

        Whatever else runs on a core can only make a turn longer, so that with many
        short turns these differ least from run to run.
        """
        return min(other.seconds) / min(self.seconds)

    def thrift(self, other: Way) -> float:
        """How many times less processor time than another it takes, each at its best turn."""
        return min(other.busy) / min(self.busy)

    def cells(self, other: Way) -> str:
        """Cells of a row: seconds by the clock and by the processor, and the three ratios."""
        return (
            f"{median(self.seconds):.3f} | {self.speed(other):.3f} | {min(self.seconds):.3f} | "
            f"{self.best(other):.3f} | {min(self.busy):.3f} | {self.thrift(other):.3f}"
        )


def alternate(ways: Sequence[Way], *, count: int) -> None:
    """Have each way take `count` turns, each in turn the first; one turn before is not counted."""
    for way in ways:
        way.turn()
        way.seconds.clear()
        way.busy.clear()
    for turn in range(count):
        first = turn % len(ways)
        for way in (*ways[first:], *ways[:first]):
            way.turn()
