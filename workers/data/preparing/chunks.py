"""One chunk of a source: decoded, turned into examples, cleaned and hashed.

This is what the processes of a pool do; each gets a `ChunkReader` of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpo.spec.cleaning import Cleaning, Quality
from hpo.spec.sources import WeightedSource
from workers.data.cleaning.cleaner import Cleaner, Dropped
from workers.data.cleaning.duplicates import exact_hash, identity_hash, signatures
from workers.data.cleaning.quality import score
from workers.data.cleaning.text import joined
from workers.data.example import Example, RowProblem, UnusableRow
from workers.data.preparing.report import Losses
from workers.data.preparing.survey import TokenCounts
from workers.data.reading.formats import RowFormat
from workers.data.reading.rows import Chunk

Hashes = npt.NDArray[np.void]
Signatures = npt.NDArray[np.uint32]
HASH = np.dtype("V16")


@dataclass(frozen=True)
class Reading:
    """How the rows of a set are read; sets that are read alike share their examples."""

    sources: tuple[WeightedSource, ...]
    cleaning: Cleaning | None
    fields: tuple[str, ...]
    """Fields that the layout's text names."""
    task_fields: tuple[str, ...]
    """Fields that grading needs."""
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
class Handled:
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

    def __call__(self, chunk: Chunk) -> Handled:
        """Rows in, examples and what was lost out."""
        handled = Handled()
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
        self, where: str, row: Mapping[str, Any] | RowProblem, handled: Handled
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
                handled.lost.add(cleaned.step, where, cleaned.detail, joined(example, system=True))
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

    def _hashed(self, handled: Handled, kept: list[Example]) -> Handled:
        cleaning = self.reading.cleaning
        near = cleaning.near_duplicates if cleaning is not None else None
        contents = [example.content() for example in kept]
        handled.lines = [e.with_place(content) for e, content in zip(kept, contents, strict=True)]
        handled.content = hashes_of(
            hashlib.blake2b(content, digest_size=16).digest() for content in contents
        )
        handled.exact = hashes_of(map(exact_hash, kept))
        handled.identity = hashes_of(identity_hash(example, self.reading.same) for example in kept)
        if near is not None:
            texts = [joined(example, system=False) for example in kept]
            handled.signatures = signatures(texts, near)
        return handled


def hashes_of(found: Iterable[bytes]) -> Hashes:
    """Hashes of 16 bytes as one array."""
    return np.frombuffer(b"".join(found), HASH)
