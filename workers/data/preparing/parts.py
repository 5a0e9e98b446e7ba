"""A set in the making."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hpo.spec.errors import InputError
from workers.data.cleaning.text import joined
from workers.data.example import Example, RowProblem
from workers.data.preparing.gather import Flags, Gathered
from workers.data.preparing.report import Losses
from workers.data.preparing.splits import Hashes, repeats


@dataclass
class Part:
    """A set in the making: some of the examples that were gathered."""

    name: str
    gathered: Gathered
    alive: Flags
    lost: Losses
    examples: int
    """All that can be kept or dropped."""
    held: Hashes | None = None
    """Identities that were held out for it, where `samples` leaves some unused."""
    reported: dict[str, int] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    """Of its sources; the training set's only."""
    _refused: list[int] = field(default_factory=list)
    repeats: npt.NDArray[np.int64] | None = None
    """Positions among the kept ones, where some are seen more or less often than once."""

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Indices of the examples that are left."""
        return np.flatnonzero(self.alive)

    @property
    def identity(self) -> Hashes:
        """Identities of those."""
        return self.gathered.identity[self.alive]

    @property
    def reserved(self) -> Hashes:
        """Identities that no other set may have."""
        return self.identity if self.held is None else self.held

    def take(self, index: int) -> Example:
        """One of the examples that were gathered."""
        return self.gathered.examples[index]

    def reserve(self, samples: int | None) -> None:
        """Use the first `samples`; the others are kept from every other set all the same."""
        self.held = self.identity
        if samples is not None:
            self.give_up("beyond samples", np.cumsum(self.alive) > samples)

    def give_up(self, reason: str, flags: Flags) -> None:
        """Take out the living examples that are flagged, for another set's sake."""
        gone = self.alive & flags
        self.alive &= ~gone
        self.lost.count(reason, int(gone.sum()))

    def drop(self, reason: str, flags: Flags, detail: Callable[[int], str]) -> None:
        """Take out the living examples that are flagged, and keep a few to show."""
        gone = np.flatnonzero(self.alive & flags)
        self.alive[gone] = False
        for index in self.lost.wanted(reason, gone):
            example = self.take(int(index))
            self.lost.note(reason, example.where, detail(int(index)), joined(example, system=True))
        self.lost.count(reason, len(gone))

    def refuse(self, place: int, problem: RowProblem) -> None:
        """Note that the example at a place among `kept` goes, once `settle` is called."""
        self._refused.append(place)
        self.lost.add(problem.kind, problem.where, problem.given)

    def settle(self) -> None:
        """Take out what was refused, and repeat the rest by its sources' weights."""
        self.alive[self.kept[self._refused]] = False
        self._refused.clear()
        self.require_some()
        if any(weight != 1 for weight in self.weights):
            self.repeats = repeats(self.gathered.origin[self.alive], self.weights)
            if not len(self.repeats):
                given = f"weights {self.weights} on {len(self.kept)} examples, which leave none"
                raise InputError(f"data.{self.name}: given {given}; allowed: larger weights")

    def content(self) -> bytes:
        """A hash of what is left, in order."""
        whole = hashlib.sha256(self.name.encode())
        whole.update(self.gathered.content[self.alive].tobytes())
        if self.repeats is not None:
            whole.update(self.repeats.tobytes())
        return whole.digest()

    def require_some(self) -> None:
        """Raise InputError when nothing is left, saying what it was lost to."""
        if self.alive.any():
            return
        losses = self.lost.counts.items()
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in losses)
        given = f"{self.examples} examples, of which none is left" if self.examples else "no rows"
        raise InputError(
            f"data.{self.name}: given {given}{f' ({reasons})' if reasons else ''}; allowed: a set "
            "with at least one example: look at where and samples, and loosen what dropped them"
        )
