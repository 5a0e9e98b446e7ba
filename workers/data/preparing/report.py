"""What became of the data: in = kept + dropped, by reason, with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

SHOWN = 3
"""Dropped examples that are kept for people, per reason."""
CHARACTERS = 160
"""Of each of them."""
MUCH_CONTAMINATED = 0.05
"""Share of dropped examples from which it is warned that the search may be too eager."""
MUCH_TRUNCATED = 0.01
"""Share of truncated examples from which it is warned."""


@dataclass(frozen=True)
class Lost:
    """One example that was dropped."""

    where: str
    detail: str
    text: str

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class Losses:
    """Dropped examples by reason, the first few of each to look at."""

    counts: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[Lost]] = field(default_factory=dict)

    def add(self, reason: str, where: str, detail: str, text: str = "") -> None:
        """Count one and keep it if there is room."""
        self.count(reason, 1)
        self.note(reason, where, detail, text)

    def count(self, reason: str, number: int) -> None:
        """Count so many."""
        if number:
            self.counts[reason] += number

    def note(self, reason: str, where: str, detail: str, text: str = "") -> None:
        """Keep one that is counted apart, if there is room."""
        kept = self.shown.setdefault(reason, [])
        if len(kept) < SHOWN:
            kept.append(Lost(where, detail, _short(text)))

    def wanted(self, reason: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The first of some indices, as many as there is room for."""
        return indices[: SHOWN - len(self.shown.get(reason, ()))]

    def merge(self, other: Losses) -> None:
        """Take over what another counted later in the same order."""
        self.counts.update(other.counts)
        for reason, kept in other.shown.items():
            for lost in kept:
                self.note(reason, lost.where, lost.detail, lost.text)

    @property
    def total(self) -> int:
        """Everything that was dropped."""
        return self.counts.total()


@dataclass(frozen=True)
class Truncation:
    """What a limit on the tokens takes from a set."""

    max_length: int
    truncated: int
    """Examples that lose their end."""
    dropped: int
    """Examples of which nothing is left that is learned."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a set's examples."""

    total: int
    learned: int
    """Tokens that the loss counts."""
    quantiles: tuple[int, ...]
    """Shortest, 25 %, median, 75 %, 95 %, longest."""
    histogram: tuple[tuple[int, int], ...]
    """Upper bound of a bin, and examples in it."""
    truncation: tuple[Truncation, ...]


@dataclass(frozen=True)
class SetReport:
    """One set of a study."""

    name: str
    paths: tuple[str, ...]
    rows: int
    """Rows that were read."""
    wanted: int
    """Rows that the filter let through."""
    examples: int
    """Examples that those gave, and rows that gave none: all that can be kept or dropped."""
    kept: int
    repeated: int
    """Examples per epoch, where sources have weights; `kept` elsewhere."""
    dropped: dict[str, int]
    shown: dict[str, list[dict[str, str]]]
    """The first few that were dropped, by reason."""
    counts: dict[str, dict[str, int]]
    """Kept examples by label and value; `file` is a label too."""
    reported: dict[str, int]
    """What was counted and dropped nothing: `contaminated` examples that were
    kept, `evaluation items` that were looked for, those `not compared`."""
    quality: tuple[float, ...]
    """Lowest, mean and highest score; empty without scores."""
    tokens: Lengths | None

    @property
    def adds_up(self) -> bool:
        """in = kept + dropped."""
        return self.examples == self.kept + sum(self.dropped.values())


@dataclass(frozen=True)
class DataReport:
    """What a study is trained and scored on."""

    hash: str
    """Of every example that was kept, set by set, in order."""
    configuration: dict[str, Any]
    """The data section with all its values."""
    inputs: dict[str, str]
    """Hash of each file's content, by path."""
    sets: tuple[SetReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)

    @staticmethod
    def of(content: Mapping[str, Any]) -> DataReport:
        """The report that `as_dict` gave."""
        return DataReport(**{**content, "sets": tuple(_set(part) for part in content["sets"])})

    def of_set(self, name: str) -> SetReport:
        """The report of one set. Raises KeyError."""
        return {part.name: part for part in self.sets}[name]

    def warnings(self) -> list[str]:
        """What a person should know before training."""
        return [warning for part in self.sets for warning in _warnings(part)]


def _set(content: Mapping[str, Any]) -> SetReport:
    known = dict(content)
    for name in ("paths", "quality"):
        known[name] = tuple(known[name])
    if known["tokens"] is not None:
        tokens = dict(known["tokens"])
        tokens["quantiles"] = tuple(tokens["quantiles"])
        tokens["histogram"] = tuple((bound, count) for bound, count in tokens["histogram"])
        tokens["truncation"] = tuple(Truncation(**cut) for cut in tokens["truncation"])
        known["tokens"] = Lengths(**tokens)
    return SetReport(**known)


def _warnings(part: SetReport) -> list[str]:
    found = []
    contaminated = part.dropped.get("contaminated", 0)
    if contaminated > MUCH_CONTAMINATED * part.examples:
        found.append(
            f"warning: data.{part.name}: {contaminated} of {part.examples} examples were dropped "
            "as holding an evaluation item; look at some with hpo data inspect --dropped, or "
            "only count them with decontamination: {action: report}"
        )
    # Prompts to be answered are never cut.
    counted = part.tokens is not None and part.name != "generation"
    for cut in part.tokens.truncation if part.tokens is not None and counted else ():
        share = (cut.truncated + cut.dropped) / max(1, part.kept)
        if share > MUCH_TRUNCATED:
            found.append(
                f"warning: data.{part.name}: {cut.truncated} of {part.kept} examples are cut at "
                f"{cut.max_length} tokens and {cut.dropped} left out ({share:.1%})"
            )
    return found


def lengths_of(
    lengths: npt.NDArray[np.int64], learned: int, truncation: Sequence[Truncation]
) -> Lengths:
    """Summarise the lengths of a set's examples, in tokens."""
    shares = (0, 0.25, 0.5, 0.75, 0.95, 1)
    quantiles = np.quantile(lengths, shares, method="lower") if len(lengths) else ()
    return Lengths(
        total=int(lengths.sum()),
        learned=learned,
        quantiles=tuple(int(value) for value in quantiles),
        histogram=_histogram(lengths),
        truncation=tuple(truncation),
    )


def _histogram(lengths: npt.NDArray[np.int64], bins: int = 12) -> tuple[tuple[int, int], ...]:
    """Examples by length, in bins of equal width with round bounds."""
    if not len(lengths):
        return ()
    width = _round_up(int(lengths.max()) / bins)
    counts = np.bincount((np.maximum(lengths, 1) - 1) // width)
    return tuple(((index + 1) * width, int(count)) for index, count in enumerate(counts))


def _round_up(value: float) -> int:
    """The next number of 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= value:
                return factor * power
        power *= 10


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CHARACTERS else f"{flat[: CHARACTERS - 1]}…"
