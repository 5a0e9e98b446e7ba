"""From what was read to the sets of a study: held out, apart, decontaminated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.spec.data import Decontamination, EvaluationData, FewShot
from hpo.spec.errors import InputError
from workers.data.cleaning.contamination import Hit, ItemIndex
from workers.data.example import Example, RowProblem
from workers.data.preparing.gather import Flags, Gathered, Reading, gather
from workers.data.preparing.pool import InOrder
from workers.data.preparing.progress import Progress
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.report import Losses, text_of
from workers.data.preparing.splits import Hashes, among, held_out, repeats
from workers.data.preparing.survey import TokenCounts

BATCH = 4096
"""Examples per task of the pool."""
PRIORITY = ("test", "loss", "generation")
"""Whose an example is that two evaluation sets could have; the test set's first."""


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
            self.lost.note(reason, example.where, detail(int(index)), text_of(example))
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


class Assembly:
    """Gathers each reading once, below a folder, and makes the sets of them."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        count_tokens: Callable[[], TokenCounts] | None,
        progress: Progress,
    ) -> None:
        self._recipe = recipe
        self._progress = progress
        self._folder = folder
        self._count_tokens = count_tokens
        self._gathered: dict[str, Gathered] = {}
        self.folders: list[Path] = []
        """Where the examples of each reading lie."""

    def parts(self) -> tuple[dict[str, Part], list[Example]]:
        """Every set by its name, the training sets first, and the few-shot examples.

        Raises InputError for what cannot be read and for a set without examples.
        """
        evaluation = self._evaluation_parts()
        training = {
            name: self._training_part(name, field, evaluation)
            for name, field in self._recipe.training_sets().items()
        }
        for part in training.values():
            if self._recipe.data.decontamination is not None:
                decontaminate(part, list(evaluation.values()), self._recipe.data.decontamination)
        # After that: no prompt may show an evaluation item.
        shots = self._take_shots(list(training.values()))
        parts = {**training, **evaluation}
        for part in parts.values():
            part.require_some()
        return parts, shots

    def gathered_index(self, part: Part) -> int:
        """Which of `folders` holds a set's examples."""
        return list(self._gathered.values()).index(part.gathered)

    def _gather(self, reading: Reading) -> Gathered:
        key = repr(reading)
        if key not in self._gathered:
            folder = self._folder / f"examples-{len(self.folders)}"
            self._gathered[key] = gather(reading, folder, self._count_tokens, self._progress)
            self.folders.append(folder)
        return self._gathered[key]

    def _evaluation_parts(self) -> dict[str, Part]:
        sets = self._recipe.data.evaluation_sets()
        found: dict[str, Part] = {}
        for name in PRIORITY:
            if name in sets:
                found[name] = self._evaluation_part(name, sets[name], found.get("test"))
        return {name: found[name] for name in sets}

    def _evaluation_part(self, name: str, spec: EvaluationData, test: Part | None) -> Part:
        gathered = self._gather(self._recipe.evaluation_reading(spec))
        in_test = (
            among(gathered.identity, [test.reserved])
            if test is not None
            else np.zeros_like(gathered.alive)
        )
        if spec.fraction is None:
            part = Part(
                name, gathered, gathered.alive.copy(), deepcopy(gathered.lost), gathered.made
            )
            part.give_up("in the test set", in_test)
            if spec.path is None:
                part.reserve(spec.samples)
            return part
        drawn = held_out(gathered.identity, gathered.alive & ~in_test, spec.fraction, spec.seed)
        if not drawn.any():
            share = f"{spec.fraction:g} of {int(gathered.alive.sum())} examples, which is none"
            raise InputError(f"data.{name}.fraction: given {share}; allowed: a larger share")
        part = Part(name, gathered, drawn, Losses(), int(drawn.sum()))
        part.reserve(spec.samples)
        return part

    def _training_part(
        self, name: str, completion: str | None, evaluation: dict[str, Part]
    ) -> Part:
        gathered = self._gather(self._recipe.training_reading(completion))
        part = Part(name, gathered, gathered.alive.copy(), deepcopy(gathered.lost), gathered.made)
        part.weights = [source.weight for source in self._recipe.data.train.all_sources()]
        sets = self._recipe.data.evaluation_sets()
        for other in PRIORITY:
            if other not in evaluation:
                continue
            held = sets[other].fraction is not None
            reason = f"held out for {other}" if held else f"in the {other} set"
            there = among(gathered.identity, [evaluation[other].reserved])
            part.give_up(reason, there)
        return part

    def _take_shots(self, training: list[Part]) -> list[Example]:
        few_shot = self._recipe.data.few_shot
        if few_shot is None or few_shot.origin == "own":
            return []
        first = training[0]
        first.require_some()
        chosen = np.sort(_draw(first.kept, few_shot))
        shots = [first.take(int(index)) for index in chosen]
        taken = first.gathered.identity[chosen]
        for part in training:
            there = among(part.gathered.identity, [taken])
            part.give_up("few-shot examples", there)
        return shots


def _draw(kept: npt.NDArray[np.int64], few_shot: FewShot) -> npt.NDArray[np.int64]:
    random = np.random.default_rng(few_shot.seed)
    return random.choice(kept, min(few_shot.count, len(kept)), replace=False)


def decontaminate(part: Part, evaluation: Sequence[Part], spec: Decontamination) -> None:
    """Find training examples that hold an evaluation item; drop or report them."""
    items = [other.take(int(index)) for other in evaluation for index in other.kept]
    index = ItemIndex(items, spec)
    part.reported["evaluation items"] = index.items
    part.reported["not compared"] = index.not_compared
    search = InOrder(partial(ContaminationSearch, index))
    kept = part.kept
    hits: dict[int, Hit] = {}
    start = 0
    for found in search.map(part.gathered.examples.batches(kept, BATCH)):
        hits |= {int(kept[start + place]): hit for place, hit in found.items()}
        start += BATCH
    if spec.action == "report":
        part.reported["contaminated"] = len(hits)
    flags = np.zeros_like(part.alive)
    flags[list(hits)] = True

    def detail(index: int) -> str:
        hit = hits[index]
        return f"holds {hit.share:.0%} of {items[hit.item].where}"

    if spec.action == "drop":
        part.drop("contaminated", flags, detail)


def _everything(example: Example) -> str:
    """Whatever of an example a model may be shown."""
    shots = (text for pair in example.shots for text in pair)
    return "\n".join((text_of(example), *example.fields.values(), *shots))


@dataclass
class ContaminationSearch:
    """Looks for items in lines of examples; lives in a pool's process."""

    index: ItemIndex

    def __call__(self, lines: list[bytes]) -> dict[int, Hit]:
        """Hits by the line's place."""
        hits = self.index.hits([_everything(Example.from_line(line)) for line in lines])
        return {place: hit for place, hit in enumerate(hits) if hit is not None}
