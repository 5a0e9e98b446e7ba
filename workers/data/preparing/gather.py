"""From the sources of a set to clean examples on disk, counted.

The rows of a source are read in chunks. A chunk is decoded, turned into
examples and cleaned in one of several processes; what comes back is written
in order, so the result is the same for any number of processes. In memory
stay a few numbers per example: three hashes of 16 bytes, and a MinHash
signature while near-duplicates are looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpo.spec.data import Cleaning, FieldQuality, Quality, WeightedSource
from hpo.spec.errors import InputError
from workers.data.cleaning.cleaner import Cleaner, Dropped
from workers.data.cleaning.duplicates import (
    exact_hash,
    first_of_equals,
    identity_hash,
    near_duplicates,
    signatures,
)
from workers.data.cleaning.quality import score
from workers.data.cleaning.text import joined
from workers.data.example import Example, RowProblem, UnusableRow
from workers.data.preparing.pool import InOrder
from workers.data.preparing.progress import Progress
from workers.data.preparing.report import Losses, text_of
from workers.data.preparing.store import ExampleWriter, StoredExamples
from workers.data.preparing.survey import TokenCounts
from workers.data.reading.formats import RowFormat
from workers.data.reading.rows import Chunk, read_chunks

Hashes = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]
Signatures = npt.NDArray[np.uint32]
HASH = np.dtype("V16")


@dataclass(frozen=True)
class Reading:
    """How the rows of a set are read; sets that are read alike share their examples."""

    sources: tuple[WeightedSource, ...]
    cleaning: Cleaning | None
    fields: tuple[str, ...]
    """Fields that the layout's text names."""
    labels: tuple[str, ...]
    quality: Quality | None
    same: Literal["prompt", "example"]
    """What makes two examples the same: `prompt` or `example`."""
    stop: bool
    """Whether the first row that cannot be used ends it."""
    max_prompt_tokens: int | None

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit asks for the number of tokens."""
        limits = self.cleaning and (self.cleaning.min_tokens, self.cleaning.max_tokens)
        return self.max_prompt_tokens is not None or any(limits or ())


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


@dataclass
class _Handled:
    """What became of one chunk."""

    rows: int = 0
    wanted: int = 0
    made: int = 0
    lines: list[bytes] = field(default_factory=list)
    content: Hashes = field(default_factory=lambda: np.empty(0, HASH))
    exact: Hashes = field(default_factory=lambda: np.empty(0, HASH))
    identity: Hashes = field(default_factory=lambda: np.empty(0, HASH))
    signatures: Signatures | None = None
    lost: Losses = field(default_factory=Losses)
    problem: RowProblem | None = None
    """The first row that could not be used."""


@dataclass
class ChunkReader:
    """Turns a chunk of one source into clean examples."""

    reading: Reading
    source: WeightedSource
    format: RowFormat
    cleaner: Cleaner | None
    tokens: TokenCounts | None
    left: int | None
    """Rows that may still be used; only kept where one reader sees all chunks."""

    @staticmethod
    def make(
        reading: Reading,
        source: WeightedSource,
        format: RowFormat,  # noqa: A002 - the field's name
        count_tokens: Callable[[], TokenCounts] | None,
    ) -> ChunkReader:
        """Build one in the process that it is to work in."""
        tokens = count_tokens() if count_tokens is not None else None
        cleaning = reading.cleaning
        whole = tokens.whole if tokens is not None else None
        cleaner = Cleaner(cleaning, whole) if cleaning is not None else None
        return ChunkReader(reading, source, format, cleaner, tokens, source.samples)

    def __call__(self, chunk: Chunk) -> _Handled:
        """Rows in, examples and what was lost out."""
        handled = _Handled()
        kept: list[Example] = []
        for where, row in chunk.rows():
            if self.left == 0:
                break
            handled.rows += 1
            try:
                kept += self._examples(where, row, handled)
            except UnusableRow as error:
                handled.made += 1
                handled.problem = handled.problem or error.problem
                handled.lost.add(error.problem.kind, where, error.problem.given)
        return self._hashed(handled, kept)

    def _examples(
        self, where: str, row: Mapping[str, Any] | RowProblem, handled: _Handled
    ) -> Iterator[Example]:
        if not isinstance(row, RowProblem) and not self.format.wanted(row):
            return
        handled.wanted += 1
        if self.left is not None:
            self.left -= 1
        if isinstance(row, RowProblem):
            raise UnusableRow(row)
        for example in self.format.examples(where, row):
            self._require_short_prompt(example)
            cleaned = self.cleaner.clean(example) if self.cleaner is not None else example
            handled.made += 1
            if isinstance(cleaned, Dropped):
                handled.lost.add(cleaned.step, where, cleaned.detail, text_of(example))
            else:
                yield self._scored(cleaned)

    def _require_short_prompt(self, example: Example) -> None:
        limit = self.reading.max_prompt_tokens
        if limit is None or self.tokens is None:
            return
        length = self.tokens.prompt(example)
        if length > limit:
            given = f"a prompt of {length} tokens"
            allowed = f"at most {limit} (data.max_prompt_tokens)"
            raise UnusableRow(RowProblem(example.where, "long prompt", given, allowed))

    def _scored(self, example: Example) -> Example:
        if self.reading.quality is None:
            return example
        return replace(example, quality=score(example, self.reading.quality))

    def _hashed(self, handled: _Handled, kept: list[Example]) -> _Handled:
        cleaning = self.reading.cleaning
        near = cleaning.near_duplicates if cleaning is not None else None
        contents = [example.content() for example in kept]
        handled.lines = [e.with_place(content) for e, content in zip(kept, contents, strict=True)]
        handled.content = _hashes(
            hashlib.blake2b(content, digest_size=16).digest() for content in contents
        )
        handled.exact = _hashes(map(exact_hash, kept))
        handled.identity = _hashes(identity_hash(example, self.reading.same) for example in kept)
        if near is not None:
            texts = [joined(example, system=False) for example in kept]
            handled.signatures = signatures(texts, near)
        return handled


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
    parts: list[_Handled] = []
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
) -> Iterator[_Handled]:
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
    reading: Reading, examples: StoredExamples, parts: list[_Handled], origins: list[int]
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


def _drop_duplicates(reading: Reading, gathered: Gathered, parts: list[_Handled]) -> None:
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
        gathered.lost.note(step, example.where, detail.format(blamed), text_of(example))
    gathered.lost.count(step, len(gone))


def _stacked(parts: list[_Handled], permutations: int) -> Signatures:
    """All signatures as one array; each part's is given up as soon as it is copied."""
    every = np.empty((sum(len(part.exact) for part in parts), permutations), np.uint32)
    start = 0
    for part in parts:
        if part.signatures is not None:
            every[start : start + len(part.signatures)] = part.signatures
        start += len(part.exact)
        part.signatures = None
    return every


def _hashes(found: Iterable[bytes]) -> Hashes:
    return np.frombuffer(b"".join(found), HASH)


def _joined(parts: Iterable[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, HASH), *parts])
