"""The study-wide ladder of rungs, in training examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Ladder:
    """Rungs at `min_resource * reduction_factor ** k` examples.

    Examples, not steps, because the effective batch size is searched: equal
    steps would compare trials that saw different amounts of data.
    """

    min_resource: int
    reduction_factor: int

    def rungs(self, until: int) -> Iterator[int]:
        """Rungs of at most `until` examples, the lowest first."""
        rung = self.min_resource
        while rung <= until:
            yield rung
            rung *= self.reduction_factor

    def crossed(self, before: int, after: int) -> int | None:
        """The highest rung in (before, after] examples, or None.

        One step over several rungs is one measurement: it counts for the
        highest, the lower ones stay without a value of this trial.
        """
        crossed = [rung for rung in self.rungs(after) if rung > before]
        return crossed[-1] if crossed else None

    def index(self, rung: int) -> int:
        """Ordinal of a rung, 0 for the lowest."""
        return list(self.rungs(rung)).index(rung)
