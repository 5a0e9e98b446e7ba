"""From the sources of a set to clean examples on disk, counted.

The rows of a source are read in chunks. A chunk is decoded, turned into
examples and cleaned in one of several processes; what comes back is written
in order, so the result is the same for any number of processes. In memory
stay a few numbers per example: three hashes of 16 bytes, and a MinHash
signature while near-duplicates are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.spec.cleaning import FieldQuality
from hpo.spec.errors import InputError
from hpo.spec.sources import WeightedSource
from workers.data.cleaning.duplicates import first_of_equals, near_duplicates
from workers.data.cleaning.text import joined
from workers.data.example import RowProblem
from workers.data.preparing.chunks import (
    HASH,
    ChunkReader,
    Handled,
    Hashes,
    Reading,
    Signatures,
)
from workers.data.preparing.pool import InOrder
from workers.data.preparing.progress import Progress
from workers.data.preparing.report import Losses
from workers.data.preparing.store import ExampleWriter, StoredExamples
from workers.data.preparing.survey import TokenCounts
from workers.data.reading.formats import RowFormat
from workers.data.reading.rows import Chunk, read_chunks

Flags = npt.NDArray[np.bool_]


@dataclass
class Gathered:
    """The clean examples of a reading, with what stands in memory for each."""

    examples: StoredExamples
    content: Hashes
    """Hash of the example as it is stored, but for where it was read."""
    identity: Hashes
    """Equal for examples that must not lie in two sets."""
    origin: npt.NDArray[np.int32]
    """Index of the source."""
    alive: Flags
    """Whether it is neither a duplicate nor taken out otherwise."""
    rows: int
    wanted: int
    """Rows that the sources' filters let through."""
    made: int
    """Examples that were made of those, and rows that none could be made of."""
    lost: Losses


def gather(
    reading: Reading,
    folder: Path,
    count_tokens: Callable[[], TokenCounts] | None,
    progress: Progress,
) -> Gathered:
    """Read, clean and store the examples of a reading; drop its duplicates.

    `count_tokens` is called once in each process, where a limit needs it.
    Raises InputError for a source that cannot be read and, where the policy
    is to stop, for the first row that cannot be used.
    """
    parts: list[Handled] = []
    origins: list[int] = []
    tokens = count_tokens if reading.counts_tokens else None
    with ExampleWriter(folder) as writer:
        for index, source in enumerate(reading.sources):
            for part in _handle(reading, source, tokens):
                if part.problem is not None and reading.stop:
                    raise InputError(stopped(part.problem))
                writer.append(part.lines)
                part.lines.clear()
                parts.append(part)
                origins.append(index)
                progress("rows read", sum(part.rows for part in parts))
    return _merged(reading, StoredExamples(folder), parts, origins)


def _handle(
    reading: Reading, source: WeightedSource, count_tokens: Callable[[], TokenCounts] | None
) -> Iterator[Handled]:
    chunks = read_chunks(source.path, split=source.split, records=source.records)
    first = next(chunks)
    make = partial(ChunkReader.make, reading, source, _format(reading, source, first), count_tokens)
    stream = chain([first], chunks)
    if source.samples is None:
        yield from InOrder(make).map(stream)
        return
    # How many rows are left is known to one reader only.
    reader = make()
    for chunk in stream:
        yield reader(chunk)
        if reader.left == 0:
            return


def _format(reading: Reading, source: WeightedSource, first: Chunk) -> RowFormat:
    sample = next((row for _, row in first.rows() if not isinstance(row, RowProblem)), {})
    quality = reading.quality
    return RowFormat.of(
        source,
        template_fields=reading.fields,
        task_fields=reading.task_fields,
        labels=reading.labels,
        answer=getattr(quality, "answer", None),
        quality=quality.field if isinstance(quality, FieldQuality) else None,
        origin=source.path,
        first=sample,
    )


def stopped(problem: RowProblem) -> str:
    """The line that a row which cannot be used ends the run with."""
    return (
        f"{problem.line()} (mend the row, or let such rows be dropped and counted "
        "with on_error: drop in the data section)"
    )


def _merged(
    reading: Reading, examples: StoredExamples, parts: list[Handled], origins: list[int]
) -> Gathered:
    lost = Losses()
    for part in parts:
        lost.merge(part.lost)
    sizes = [len(part.content) for part in parts]
    gathered = Gathered(
        examples=examples,
        content=_joined(part.content for part in parts),
        identity=_joined(part.identity for part in parts),
        origin=np.repeat(np.asarray(origins, np.int32), sizes),
        alive=np.ones(len(examples), np.bool_),
        rows=sum(part.rows for part in parts),
        wanted=sum(part.wanted for part in parts),
        made=sum(part.made for part in parts),
        lost=lost,
    )
    _drop_duplicates(reading, gathered, parts)
    return gathered


def _drop_duplicates(reading: Reading, gathered: Gathered, parts: list[Handled]) -> None:
    cleaning = reading.cleaning
    if cleaning is None:
        return
    if cleaning.exact_duplicates:
        earlier = first_of_equals(_joined(part.exact for part in parts))
        drop(gathered, "exact_duplicates", earlier, "equal to {}")
    if cleaning.near_duplicates is not None:
        every = _stacked(parts, cleaning.near_duplicates.permutations)
        earlier = near_duplicates(every, gathered.alive, cleaning.near_duplicates)
        drop(gathered, "near_duplicates", earlier, "almost equal to {}")


def drop(gathered: Gathered, step: str, because: npt.NDArray[np.int64], detail: str) -> None:
    """Take out the living examples with `because` not -1, the index of an example to blame.

    `detail` names that example's place in its braces.
    """
    gone = np.flatnonzero(gathered.alive & (because >= 0))
    gathered.alive[gone] = False
    examples = gathered.examples
    for index in gathered.lost.wanted(step, gone):
        example = examples[int(index)]
        blamed = examples[int(because[index])].where
        gathered.lost.note(step, example.where, detail.format(blamed), joined(example, system=True))
    gathered.lost.count(step, len(gone))


def _stacked(parts: list[Handled], permutations: int) -> Signatures:
    """All signatures as one array; each part's is given up as soon as it is copied."""
    every = np.empty((sum(len(part.exact) for part in parts), permutations), np.uint32)
    start = 0
    for part in parts:
        if part.signatures is not None:
            every[start : start + len(part.signatures)] = part.signatures
        start += len(part.exact)
        part.signatures = None
    return every


def _joined(parts: Iterable[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, HASH), *parts])
