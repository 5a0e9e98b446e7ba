"""From what was read to the sets of a study: held out, apart, decontaminated."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.spec.data import FewShot
from hpo.spec.errors import InputError
from hpo.spec.sources import EvaluationData
from workers.data.example import Example
from workers.data.preparing.chunks import Reading
from workers.data.preparing.decontaminate import decontaminate
from workers.data.preparing.gather import Gathered, gather
from workers.data.preparing.parts import Part
from workers.data.preparing.progress import Progress
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.report import Losses
from workers.data.preparing.splits import among, held_out
from workers.data.preparing.survey import TokenCounts

PRIORITY = ("test", "loss", "generation")
"""Whose an example is that two evaluation sets could have; the test set's first."""


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
        gathered = self._gather(self._recipe.evaluation_reading(name))
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
