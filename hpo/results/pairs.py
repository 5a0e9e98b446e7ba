"""Numbers before and after, and the order in which people are shown them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A number of both sides; None where a side has none that is finite."""

    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """After less before."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def relative(self) -> float | None:
        """The difference as a share of what was before; None against nothing."""
        difference = self.difference
        return difference / self.before if difference is not None and self.before else None

    def as_dict(self) -> dict[str, float | None]:
        """Plain values for JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "difference": self.difference,
            "relative": self.relative,
        }


def natural(text: str) -> list[tuple[int, str]]:
    """Sorts `level 2` before `level 10`."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def pair_of(before: Result, after: Result, name: str) -> Pair:
    """A number of two results by its name."""
    return Pair(finite(before.get(name)), finite(after.get(name)))


def finite(value: object) -> float | None:
    """A stored number; JSON has words for what is not finite."""
    if value is None:
        return None
    number = float(str(value))
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int) else number
