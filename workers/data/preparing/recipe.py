"""Everything that prepared data depends on, and how each set is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from hpo.spec import templates
from hpo.spec.cleaning import Quality
from hpo.spec.data import DataSpec
from hpo.spec.sources import Source, WeightedSource
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec
from hpo.spec.tasks import fields_of
from workers.data.preparing.cache import DataCache, key_of
from workers.data.preparing.chunks import Reading

FORMAT = 2
"""Raised whenever prepared data would come out otherwise than before."""

MAPPING = ("format", "prompt", "completion", "messages", "text", "system", "examples")
"""Fields that an evaluation set takes over from the training set."""
TRAIN = "train"
LIBRARIES = ("tokenizers", "transformers", "datasketch")
"""A new version of them may give other tokens or other near-duplicates."""
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
"""Files of a model that say nothing about its tokenizer."""


@dataclass(frozen=True)
class Recipe:
    """What is to be prepared: the data section, for a tokenizer and its trials."""

    data: DataSpec
    tokenizer: str | None
    """Folder or hub name of the model; None leaves the examples as texts."""
    completions: tuple[str, ...] = ()
    """Fields that trials train on where that is searched; else the data section's own."""
    max_lengths: tuple[int, ...] = ()
    """Limits in tokens for which truncation is counted."""

    @staticmethod
    def of(spec: StudySpec) -> Recipe:
        """What a study needs."""
        space = SearchSpace.of(spec.training)
        fields = [field for field in space.extremes("completion") if field is not None]
        lengths = [int(length) for length in space.extremes("max_length")]
        return Recipe(spec.data, spec.model.path, tuple(fields), tuple(sorted(lengths)))

    def training_sets(self) -> dict[str, str | None]:
        """Names of the training sets, and the field each takes its completions from."""
        if not self.completions:
            return {TRAIN: None}
        return {training_name(field): field for field in self.completions}

    def training_reading(self, completion: str | None = None) -> Reading:
        """How the training set is read; `completion` in place of the sources' own."""
        changed = {} if completion is None else {"completion": completion}
        sources = [source.model_copy(update=changed) for source in self.data.train.all_sources()]
        return self._reading(sources, cleaned=True, quality=self.data.quality)

    def evaluation_reading(self, name: str) -> Reading:
        """How an evaluation set is read, or the set that it is held out of."""
        part = self.data.evaluation_sets()[name]
        own = _mapping(part)
        if part.path is not None:
            # Another format has fields of its own.
            other = part.format not in ("auto", self.data.train.format)
            shared = {} if other else _mapping(self.data.train)
            content = part.model_dump(include=set(Source.model_fields))
            source = WeightedSource.model_validate(
                {**content, **shared, **own, "path": part.path, "split": part.split}
            )
            cleaning = self.data.cleaning
            cleaned = cleaning is not None and cleaning.evaluation
            # Scores are for training.
            return self._reading([source], name, cleaned=cleaned, quality=None)
        sources = [
            source.model_copy(update={**own, "where": {**source.where, **part.where}})
            for source in self.data.train.all_sources()
        ]
        return self._reading(sources, cleaned=True, quality=self.data.quality)

    def _reading(
        self,
        sources: list[WeightedSource],
        name: str | None = None,
        *,
        cleaned: bool,
        quality: Quality | None,
    ) -> Reading:
        """How `sources` are read; `name` is the set's that has them to itself."""
        data = self.data
        answered = [part for other, part in data.answered_sets().items() if other == name]
        if name is None:
            # What is held out is read as the training set is.
            answered = [part for part in data.answered_sets().values() if part.path is None]
        return Reading(
            # Weights repeat examples; they are read once.
            sources=tuple(source.model_copy(update={"weight": 1.0}) for source in sources),
            cleaning=data.cleaning if cleaned else None,
            fields=layout_fields(data),
            task_fields=_union(fields_of(part.task) for part in answered),
            labels=_union([data.labels, *(part.by for part in answered)]),
            quality=quality,
            same=data.same,
            stop=data.on_error == "stop",
            max_prompt_tokens=data.max_prompt_tokens,
        )

    def sources(self) -> list[Source]:
        """Everything that is read, each file as its set reads it."""
        files = [part for part in self.data.evaluation_sets().values() if part.path is not None]
        return [*self.data.train.all_sources(), *files]

    def inputs(self, cache: DataCache) -> dict[str, str]:
        """Hash of each source's content, by its path."""
        paths = dict.fromkeys(str(source.path) for source in self.sources())
        return {path: cache.fingerprint(path) for path in paths}

    def key(self, cache: DataCache, inputs: Mapping[str, str]) -> str:
        """The same for recipes that give the same data of the same `inputs`."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "data": self.data.model_dump(mode="json"),
            "inputs": inputs,
            "tokenizer": _tokenizer_content(self.tokenizer, cache),
            "completions": self.completions,
            "max_lengths": self.max_lengths,
            "libraries": {name: version(name) for name in LIBRARIES},
        }
        return key_of(content)


def training_name(completion: str | None) -> str:
    """Name of the training set whose completions come from a field."""
    return TRAIN if completion is None else f"{TRAIN} on {completion}"


def layout_fields(data: DataSpec) -> tuple[str, ...]:
    """Fields of the data that the layout's text names beside the common ones."""
    text = templates.layout_text(data.template)
    if text is None:
        return ()
    mapped = {data.train.prompt or "prompt", data.train.completion or "completion"}
    known = {*templates.RESERVED, *templates.DERIVED, *mapped}
    return tuple(name for name in templates.fields(text) if name not in known)


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names, each once, in the order in which they come."""
    return tuple(dict.fromkeys(chain.from_iterable(names)))


def _mapping(source: Source) -> dict[str, Any]:
    """The field names that a source states itself."""
    return source.model_dump(include=set(MAPPING), exclude_defaults=True)


def _tokenizer_content(name: str | None, cache: DataCache) -> Any:
    """What decides a tokenizer: a folder's files beside the weights, or a hub name."""
    if name is None or not Path(name).expanduser().is_dir():
        return name
    folder = Path(name).expanduser()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        name,
        *(
            (str(file.relative_to(folder)), cache.fingerprint(str(file)))
            for file in files
            if file.suffix not in WEIGHTS
        ),
    ]
