"""The data of a study, made once, kept on disk and shared by all its processes.

    sources -> rows -> examples -> cleaned -> without duplicates -> sets that
    share nothing -> decontaminated -> tokens

Everything is decided by the recipe and the files' content, so every process
that prepares the same study has the same data, and `DataReport.hash` says so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hpo.spec.data import DataSpec
from hpo.spec.errors import InputError
from hpo.spec.tasks import fields_of
from workers.data.example import Example, RowProblem
from workers.data.preparing.assemble import Assembly
from workers.data.preparing.cache import DataCache
from workers.data.preparing.gather import stopped
from workers.data.preparing.parts import Part
from workers.data.preparing.pool import InOrder
from workers.data.preparing.prepared import ENCODED, KEPT, MANIFEST, REPEATS, REPORT, PreparedData
from workers.data.preparing.progress import Progress, Say
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.report import DataReport, Lengths, SetReport, Truncation, lengths_of
from workers.data.preparing.survey import Survey, Surveyor, token_counts
from workers.data.tokens.encoded import EncodedSet, EncodedWriter

BATCH = 2048
"""Examples that a process tokenises at a time."""
FEW = 12
"""So many batches are tokenised here: importing transformers elsewhere takes longer."""


def prepare(
    recipe: Recipe, root: Path, *, rebuild: bool = False, say: Say | None = None
) -> PreparedData:
    """The data of a recipe, from the cache below `root` or made now.

    Safe when several processes ask at once: one makes it, the others wait.
    `rebuild` makes it anew; `say` is told how far long work is.
    Raises InputError for whatever is wrong with the data and OutputError when
    it cannot be kept.
    """
    cache = DataCache(root)
    inputs = recipe.inputs(cache)
    key = recipe.key(cache, inputs)
    if rebuild or _is_damaged(cache.place(key)):
        cache.forget(key)

    def make(place: Path) -> None:
        build(recipe, inputs, place, Progress(say))
        if recipe.inputs(cache) != inputs:
            raise InputError("a data file changed while it was read; run the command again")

    return PreparedData(cache.get(key, make))


def _is_damaged(folder: Path) -> bool:
    """Whether a machine that lost its power left a folder without its last file."""
    report = folder / REPORT
    return folder.is_dir() and (not report.is_file() or report.stat().st_size == 0)


def build(recipe: Recipe, inputs: dict[str, str], folder: Path, progress: Progress) -> None:
    """Make the data of a recipe in an empty folder."""
    count = (
        partial(token_counts, recipe.tokenizer, recipe.data)
        if recipe.tokenizer is not None
        else None
    )
    assembly = Assembly(recipe, folder, count, progress)
    parts, shots = assembly.parts()
    places = {name: folder / f"set-{index}" for index, name in enumerate(parts)}
    content = survey(recipe, parts, shots, places, progress)
    whole = hashlib.sha256()
    for shot in shots:
        whole.update(shot.content())
    manifest: dict[str, object] = {"shots": [shot.as_line().decode() for shot in shots]}
    for name, part in parts.items():
        whole.update(part.content())
        whole.update(_tokens_hash(places[name] / ENCODED))
        manifest[name] = {
            "folder": places[name].name,
            "examples": assembly.folders[assembly.gathered_index(part)].name,
        }
    report = DataReport(
        hash=f"sha256:{whole.hexdigest()}",
        configuration=recipe.data.model_dump(mode="json"),
        inputs=inputs,
        sets=tuple(
            _report(recipe, part, places[name], content[name]) for name, part in parts.items()
        ),
    )
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / REPORT).write_text(json.dumps(report.as_dict()))


@dataclass
class Content:
    """What is in a set."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Examples by label and value."""
    quality: list[float] = field(default_factory=list)
    bare: dict[str, str] = field(default_factory=dict)
    """The first example without a field that grading may need, by field."""
    batches: int = 0

    @property
    def total(self) -> int:
        """Examples so far; each has a file."""
        return self.counts["file"].total() if self.counts else 0

    def add(self, survey: Survey) -> None:
        """Count what was found in a batch."""
        for label, found in survey.counts.items():
            self.counts.setdefault(label, Counter()).update(found)
        self.quality += survey.quality
        self.bare = survey.bare | self.bare


def survey(
    recipe: Recipe,
    parts: Mapping[str, Part],
    shots: Sequence[Example],
    places: Mapping[str, Path],
    progress: Progress,
) -> dict[str, Content]:
    """Tokenise and count every set, all in one go; write what was tokenised."""
    content = {name: Content() for name in parts}
    make = partial(Surveyor.make, recipe.tokenizer, recipe.data, shots)
    surveyor = InOrder(make, few=FEW)
    names: deque[str] = deque()
    stop = recipe.data.on_error == "stop"
    with ExitStack() as stack:
        writers: dict[str, EncodedWriter] = {}
        for found in surveyor.map(_batches(parts, names)):
            name = names.popleft()
            content[name].add(found)
            _refuse(parts[name], found.problems, content[name].batches * BATCH, stop)
            content[name].batches += 1
            progress("examples tokenised", sum(part.total for part in content.values()))
            if found.encoded is None:
                continue
            if name not in writers:
                place = places[name] / ENCODED
                writer = EncodedWriter(place, found.encoded.vocabulary)
                writers[name] = stack.enter_context(closing(writer))
            writers[name].append(found.encoded)
    _require_labels(recipe.data, content)
    _require_gradable(recipe.data, content)
    for name, part in parts.items():
        part.settle()
        places[name].mkdir(exist_ok=True)
        np.save(places[name] / KEPT, part.kept)
        if part.repeats is not None:
            np.save(places[name] / REPEATS, part.repeats)
    return content


def _require_labels(data: DataSpec, content: Mapping[str, Content]) -> None:
    """Raise InputError for a field to count by that no row has."""
    every = [counted for found in content.values() for counted in found.counts]
    asked = {"data.labels": (data.labels, every)}
    for name, part in data.answered_sets().items():
        asked[f"data.{name}.by"] = (part.by, list(content[name].counts))
    for place, (labels, there) in asked.items():
        for label in labels:
            if label not in there:
                given = f"given {label!r}, which no row has"
                raise InputError(f"{place}: {given}; allowed: fields of the rows")


def _require_gradable(data: DataSpec, content: Mapping[str, Content]) -> None:
    """Raise InputError for an item without a field that its task's grader needs."""
    for name, part in data.answered_sets().items():
        for needed in fields_of(part.task):
            if needed in content[name].bare:
                raise InputError(
                    f"data.{name}.task: given {part.task.type!r}, for which "
                    f"{content[name].bare[needed]} has no field {needed!r}; allowed: a field that "
                    "every row of the set has"
                )


def _refuse(part: Part, problems: Mapping[int, RowProblem], start: int, stop: bool) -> None:
    """Drop examples of a batch that begins at `start`, or stop at the first."""
    for place, problem in problems.items():
        if stop:
            raise InputError(stopped(problem))
        part.refuse(start + place, problem)


def _batches(parts: Mapping[str, Part], names: deque[str]) -> Iterator[list[bytes]]:
    """Lines of every set; the name of the set that each batch is from goes into `names`."""
    for name, part in parts.items():
        for lines in part.gathered.examples.batches(part.kept, BATCH):
            names.append(name)
            yield lines


def _report(recipe: Recipe, part: Part, folder: Path, content: Content) -> SetReport:
    kept, quality = len(part.kept), content.quality
    report = SetReport(
        name=part.name,
        paths=tuple(content.counts["file"]),
        rows=part.gathered.rows,
        wanted=part.gathered.wanted,
        examples=part.examples,
        kept=kept,
        repeated=kept if part.repeats is None else len(part.repeats),
        dropped=dict(part.lost.counts),
        shown={
            reason: [lost.as_dict() for lost in shown] for reason, shown in part.lost.shown.items()
        },
        counts={label: dict(found.most_common()) for label, found in content.counts.items()},
        reported=part.reported,
        quality=(min(quality), sum(quality) / len(quality), max(quality)) if quality else (),
        tokens=_lengths(recipe, folder) if recipe.tokenizer is not None else None,
    )
    if not report.adds_up:
        raise RuntimeError(f"the report on {part.name} does not add up: {report}")
    return report


def _tokens_hash(folder: Path) -> bytes:
    """Hash of a set's tokens and what of them is learned; nothing without a tokenizer."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("*.npy")):
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.digest()


def _lengths(recipe: Recipe, folder: Path) -> Lengths:
    encoded = EncodedSet.load(folder / ENCODED)
    cuts = [(length, encoded.cut(length)) for length in sorted(set(recipe.max_lengths))]
    truncation = [Truncation(length, cut.truncated, cut.dropped) for length, cut in cuts]
    return lengths_of(np.asarray(encoded.lengths), int(encoded.counted_tokens), truncation)
