"""The data of a study, made once, kept on disk and shared by all its processes.

    sources -> rows -> examples -> cleaned -> without duplicates -> sets that
    share nothing -> decontaminated -> tokens

Everything is decided by the recipe and the files' content, so every process
that prepares the same study has the same data, and `DataReport.hash` says so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from workers.data.assemble import Assembly, Part
from workers.data.cache import DataCache
from workers.data.encoded import EncodedSet, EncodedWriter
from workers.data.pool import InOrder
from workers.data.prepared import ENCODED, KEPT, MANIFEST, REPEATS, REPORT, PreparedData
from workers.data.recipe import Recipe
from workers.data.report import DataReport, Lengths, SetReport, Truncation, lengths_of
from workers.data.tokens import Survey, Surveyor, token_counts

BATCH = 2048
"""Examples that a process tokenises at a time."""


def prepare(recipe: Recipe, root: Path, *, rebuild: bool = False) -> PreparedData:
    """The data of a recipe, from the cache below `root` or made now.

    Safe when several processes ask at once: one makes it, the others wait.
    `rebuild` makes it anew.
    Raises InputError for whatever is wrong with the data and OutputError when
    it cannot be kept.
    """
    cache = DataCache(root)
    inputs = recipe.inputs(cache)
    key = recipe.key(cache)
    if rebuild:
        cache.forget(key)
    folder = cache.get(key, lambda place: build(recipe, inputs, place))
    return PreparedData(folder)


def build(recipe: Recipe, inputs: dict[str, str], folder: Path) -> None:
    """Make the data of a recipe in an empty folder."""
    count = (
        partial(token_counts, recipe.tokenizer, recipe.data)
        if recipe.tokenizer is not None
        else None
    )
    assembly = Assembly(recipe, folder, count)
    parts, shots = assembly.parts()
    surveyor = InOrder(partial(Surveyor.make, recipe.tokenizer, recipe.data, shots))
    whole = hashlib.sha256()
    sets: list[SetReport] = []
    manifest: dict[str, object] = {"shots": [shot.as_line().decode() for shot in shots]}
    for index, part in enumerate(parts.values()):
        place = folder / f"set-{index}"
        place.mkdir()
        sets.append(_finish(recipe, part, place, surveyor))
        whole.update(part.content())
        manifest[part.name] = {
            "folder": place.name,
            "examples": assembly.folders[assembly.gathered_index(part)].name,
        }
    report = DataReport(
        hash=f"sha256:{whole.hexdigest()}",
        configuration=recipe.data.model_dump(mode="json"),
        inputs=inputs,
        sets=tuple(sets),
    )
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / REPORT).write_text(json.dumps(report.as_dict()))


def _finish(
    recipe: Recipe, part: Part, folder: Path, surveyor: InOrder[list[bytes], Survey]
) -> SetReport:
    """Tokenise a set, count what is in it and write it."""
    kept = part.kept
    np.save(folder / KEPT, kept)
    if part.repeats is not None:
        np.save(folder / REPEATS, part.repeats)
    writer: EncodedWriter | None = None
    counts: dict[str, Counter[str]] = {}
    quality: list[float] = []
    for survey in surveyor.map(part.gathered.examples.batches(kept, BATCH)):
        if survey.encoded is not None:
            writer = writer or EncodedWriter(folder / ENCODED, survey.encoded.vocabulary)
            writer.append(survey.encoded)
        for label, found in survey.counts.items():
            counts.setdefault(label, Counter()).update(found)
        quality += survey.quality
    if writer is not None:
        writer.close()
    return SetReport(
        name=part.name,
        paths=tuple(counts["file"]),
        rows=part.gathered.rows,
        wanted=part.gathered.wanted,
        examples=part.examples,
        kept=len(kept),
        repeated=len(kept) if part.repeats is None else len(part.repeats),
        dropped=dict(part.lost.counts),
        shown={
            reason: [lost.as_dict() for lost in shown] for reason, shown in part.lost.shown.items()
        },
        counts={label: dict(found.most_common()) for label, found in counts.items()},
        reported=part.reported,
        quality=(min(quality), sum(quality) / len(quality), max(quality)) if quality else (),
        tokens=_lengths(recipe, folder) if recipe.tokenizer is not None else None,
    )


def _lengths(recipe: Recipe, folder: Path) -> Lengths:
    encoded = EncodedSet.load(folder / ENCODED)
    cuts = [(length, encoded.cut(length)) for length in sorted(set(recipe.max_lengths))]
    truncation = [Truncation(length, cut.truncated, cut.dropped) for length, cut in cuts]
    return lengths_of(np.asarray(encoded.lengths), int(encoded.counted_tokens), truncation)
