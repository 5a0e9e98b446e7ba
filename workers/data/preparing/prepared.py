"""Prepared data as it is read: nothing is loaded before it is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from workers.data.example import Example
from workers.data.preparing.recipe import training_name
from workers.data.preparing.report import DataReport
from workers.data.preparing.store import StoredExamples
from workers.data.tokens.encoded import EncodedSet

MANIFEST, REPORT = "manifest.json", "report.json"
KEPT, REPEATS, ENCODED = "kept.npy", "repeats.npy", "encoded"


class SetExamples(Sequence[Example]):
    """The examples of one set as texts, read from disk one by one."""

    def __init__(self, examples: StoredExamples, kept: npt.NDArray[np.int64]) -> None:
        self._examples = examples
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._examples[int(i)] for i in self._kept[index]]
        return self._examples[int(self._kept[index])]


class PreparedData:
    """The sets of a study in a folder that nobody changes any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def report(self) -> DataReport:
        """What became of the data."""
        return DataReport.of(json.loads((self.folder / REPORT).read_text()))

    @property
    def shots(self) -> list[Example]:
        """Training examples that stand in every prompt."""
        return [Example.from_line(line.encode()) for line in self._manifest["shots"]]

    def names(self) -> list[str]:
        """The sets there are."""
        return [part.name for part in self.report.sets]

    def examples(self, name: str) -> Sequence[Example]:
        """A set as texts, each example once. Raises KeyError."""
        place = self._manifest[name]
        stored = StoredExamples(self.folder / place["examples"])
        return SetExamples(stored, np.load(self.folder / place["folder"] / KEPT, mmap_mode="r"))

    def encoded(self, name: str) -> EncodedSet:
        """A set as tokens, each example once, in the order of `examples`.

        Raises KeyError, and FileNotFoundError where no tokenizer was given.
        """
        return EncodedSet.load(self.folder / self._manifest[name]["folder"] / ENCODED)

    def training(self, completion: str | None = None) -> EncodedSet:
        """What is trained on, as often per epoch as the sources' weights say.

        `completion` is the field that is trained on, where that is searched.
        """
        name = training_name(completion)
        encoded = self.encoded(name)
        repeats = self.folder / self._manifest[name]["folder"] / REPEATS
        return encoded.select(np.load(repeats)) if repeats.exists() else encoded

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text())
        return content
