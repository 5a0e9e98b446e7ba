"""Examples as token ids and what of them is learned, one by one and as sets.

A set is a few flat arrays, in memory or mapped from files, so that a million
examples are opened at once and shared by processes. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from workers.data.offsets import offsets_of
from workers.data.tokens.arrays import (
    EncodedArrays,
    GrowingArray,
    Integers,
    ranges,
    token_type,
)

ROWS_AT_ONCE = 1 << 16
"""Rows that are copied at a time where a view is written."""


@dataclass(frozen=True, slots=True, init=False, eq=False)
class EncodedExample:
    """Token ids, and which of them are learned."""

    tokens: npt.NDArray[np.integer[Any]]
    """Token ids, for reading only: those of a set stay where they are."""
    learned: tuple[tuple[int, int], ...]
    """Half-open spans of positions, sorted, disjoint and not empty. Position 0
    never counts, even inside a span: nothing stands before it to predict it."""
    weight: float
    """Its quality, for training that weighs by it."""

    def __init__(
        self,
        tokens: Sequence[int] | npt.NDArray[np.integer[Any]],
        learned: tuple[tuple[int, int], ...],
        weight: float = 1.0,
    ) -> None:
        held = tokens if isinstance(tokens, np.ndarray) else np.array(tokens, np.int64)
        for name, value in (("tokens", held), ("learned", learned), ("weight", weight)):
            object.__setattr__(self, name, value)

    @staticmethod
    def completion_only(
        input_ids: Iterable[int], prompt_length: int, weight: float = 1.0
    ) -> EncodedExample:
        """An example of which everything after the prompt is learned."""
        ids = tuple(input_ids)
        return EncodedExample(ids, ((prompt_length, len(ids)),), weight)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Token ids as plain numbers."""
        return tuple(self.tokens.tolist())

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.tokens)

    @property
    def counted(self) -> int:
        """Learned tokens, which the loss counts."""
        return sum(end - max(start, 1) for start, end in self.learned if end > 1)

    def cut(self, max_length: int | None) -> EncodedExample:
        """Without what lies past `max_length` tokens; maybe nothing learned is left."""
        if max_length is None or self.length <= max_length:
            return self
        spans = tuple((a, min(b, max_length)) for a, b in self.learned if a < max_length)
        return EncodedExample(self.tokens[:max_length], spans, self.weight)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodedExample):
            return NotImplemented
        rest = (self.learned, self.weight) == (other.learned, other.weight)
        return rest and np.array_equal(self.tokens, other.tokens)

    def __hash__(self) -> int:
        return hash((self.input_ids, self.learned, self.weight))


@dataclass(frozen=True)
class Cut:
    """What `max_length` leaves of a set."""

    examples: EncodedSet
    """A view; nothing is copied."""
    truncated: int
    """Examples that lost their end."""
    dropped: int
    """Examples left out: too long where those are dropped, else with nothing learned left."""


class EncodedSet(Sequence[EncodedExample]):
    """Encoded examples over flat arrays, or a view of some of them.

    A view has rows of its own, which may repeat, and a limit in tokens.
    """

    def __init__(
        self, arrays: EncodedArrays, rows: Integers | None = None, limit: int | None = None
    ) -> None:
        self._arrays = arrays
        self._rows = rows
        self._limit = limit

    @staticmethod
    def of(examples: Iterable[EncodedExample], vocabulary: int = 1 << 32) -> EncodedSet:
        """A set in memory; token ids take two bytes where the vocabulary allows it."""
        tokens: list[npt.NDArray[np.uint32]] = []
        spans: list[tuple[int, int]] = []
        counts: list[int] = []
        weights: list[float] = []
        for example in examples:
            tokens.append(example.tokens.astype(np.uint32))
            spans += example.learned
            counts.append(len(example.learned))
            weights.append(example.weight)
        flat = np.concatenate(tokens) if tokens else np.zeros(0, np.uint32)
        arrays = EncodedArrays(
            tokens=flat.astype(token_type(vocabulary)),
            offsets=offsets_of([len(part) for part in tokens]),
            spans=np.array(spans, np.int32).reshape(-1, 2),
            span_offsets=offsets_of(counts),
            weights=np.array(weights, np.float32),
        )
        return EncodedSet(arrays)

    @staticmethod
    def load(folder: Path) -> EncodedSet:
        """Map a set that was written into a folder; takes no time, whatever its size."""
        return EncodedSet(EncodedArrays.load(folder))

    def save(self, folder: Path) -> None:
        """Write the set, or what the view shows of one, for `load`."""
        writer = EncodedWriter(folder, self.vocabulary)
        for start in range(0, len(self), ROWS_AT_ONCE):
            writer.append(self[start : start + ROWS_AT_ONCE])
        writer.close()

    def __len__(self) -> int:
        return len(self._arrays.weights) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedSet: ...
    def __getitem__(self, index: int | slice) -> EncodedExample | EncodedSet:
        if isinstance(index, slice):
            return self.select(np.arange(*index.indices(len(self))))
        place = range(len(self))[index]
        row = place if self._rows is None else int(self._rows[place])
        held = self._arrays
        start, end = held.offsets[row : row + 2]
        first, last = held.span_offsets[row : row + 2]
        whole = EncodedExample(
            held.tokens[start:end],
            tuple((a, b) for a, b in held.spans[first:last].tolist()),
            float(held.weights[row]),
        )
        return whole.cut(self._limit)

    @property
    def vocabulary(self) -> int:
        """Token ids are below this: what their type holds, not the tokenizer's own number."""
        return 1 << 8 * self._arrays.tokens.itemsize

    @property
    def lengths(self) -> Integers:
        """Tokens of each example."""
        lengths = self._of_rows(np.diff(self._arrays.offsets))
        return lengths if self._limit is None else np.minimum(lengths, self._limit)

    @property
    def counted(self) -> Integers:
        """Learned tokens of each example, which the loss counts."""
        return self._of_rows(self._learned_before(self._limit))

    @property
    def counted_tokens(self) -> int:
        """Learned tokens of all examples."""
        return int(self.counted.sum())

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """The quality of each example."""
        weights = self._arrays.weights
        return weights if self._rows is None else weights[self._rows]

    def select(self, indices: npt.ArrayLike) -> EncodedSet:
        """A view of the examples at some indices, which may repeat."""
        chosen = np.asarray(indices, np.int64)
        rows = chosen if self._rows is None else self._rows[chosen]
        return EncodedSet(self._arrays, rows, self._limit)

    def cut(self, max_length: int | None, *, drop: bool = False) -> Cut:
        """A view of what lies within `max_length` tokens.

        With `drop`, longer examples are left out whole instead of cut.
        """
        lengths, limits = self.lengths, [self._limit, max_length]
        limit = min((each for each in limits if each is not None), default=None)
        wanted = self._of_rows(self._learned_before(limit)) > 0
        if drop and max_length is not None:
            wanted &= lengths <= max_length
        kept = np.flatnonzero(wanted)
        rows = kept if self._rows is None else self._rows[kept]
        truncated = 0 if limit is None else int((lengths[kept] > limit).sum())
        return Cut(EncodedSet(self._arrays, rows, limit), truncated, len(self) - len(kept))

    def flattened(self) -> EncodedArrays:
        """Arrays that hold exactly what the view shows."""
        if self._rows is None and self._limit is None:
            return self._arrays
        held, rows, lengths = self._arrays, self._own_rows(), self.lengths
        counts = np.diff(held.span_offsets)[rows]
        spans = held.spans[ranges(held.span_offsets[rows], counts)]
        if self._limit is not None:
            spans = np.minimum(spans, np.int32(self._limit))
            some = spans[:, 0] < spans[:, 1]
            owners = np.repeat(np.arange(len(rows)), counts)
            spans, counts = spans[some], np.bincount(owners[some], minlength=len(rows))
        return EncodedArrays(
            tokens=held.tokens[ranges(held.offsets[rows], lengths)],
            offsets=offsets_of(lengths),
            spans=spans,
            span_offsets=offsets_of(counts),
            weights=held.weights[rows],
        )

    def _own_rows(self) -> Integers:
        return np.arange(len(self)) if self._rows is None else self._rows

    def _of_rows(self, values: Integers) -> Integers:
        return values if self._rows is None else values[self._rows]

    def _learned_before(self, limit: int | None) -> Integers:
        """Learned tokens before a limit, for each stored example, viewed or not."""
        held = self._arrays
        ends = held.spans[:, 1] if limit is None else np.minimum(held.spans[:, 1], limit)
        counted = np.maximum(ends - np.maximum(held.spans[:, 0], 1), 0)
        before = offsets_of(counted)
        return np.diff(before[held.span_offsets])


class EncodedWriter:
    """Appends sets to a folder; memory does not grow with what is written.

    The folder can be loaded once it is closed. Whoever wants it to appear
    whole or not at all writes to another name and renames it.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._vocabulary = vocabulary
        types: dict[str, npt.DTypeLike] = {
            "tokens": token_type(vocabulary),
            "offsets": np.int64,
            "spans": np.int32,
            "span_offsets": np.int64,
            "weights": np.float32,
        }
        self._files = {
            name: GrowingArray(folder / f"{name}.npy", dtype, 2 if name == "spans" else None)
            for name, dtype in types.items()
        }
        self._tokens = self._spans = 0
        for name in ("offsets", "span_offsets"):
            self._files[name].append(np.zeros(1, np.int64))

    def append(self, examples: EncodedSet) -> None:
        """Add examples. Raises ValueError for a token outside the vocabulary."""
        arrays = examples.flattened()
        largest = int(arrays.tokens.max(initial=0))
        if largest >= self._vocabulary:
            raise ValueError(f"token {largest} in a vocabulary of {self._vocabulary}")
        self._files["tokens"].append(arrays.tokens)
        self._files["offsets"].append(arrays.offsets[1:] + self._tokens)
        self._files["spans"].append(arrays.spans)
        self._files["span_offsets"].append(arrays.span_offsets[1:] + self._spans)
        self._files["weights"].append(arrays.weights)
        self._tokens += int(arrays.offsets[-1])
        self._spans += int(arrays.span_offsets[-1])

    def close(self) -> None:
        """Complete the files."""
        for file in self._files.values():
            file.close()


def lengths_of(examples: Sequence[EncodedExample]) -> Integers:
    """Tokens of each example, without building those of a set."""
    if isinstance(examples, EncodedSet):
        return examples.lengths
    return np.fromiter((example.length for example in examples), np.int64, len(examples))


def counted_of(examples: Sequence[EncodedExample]) -> Integers:
    """Learned tokens of each example, without building those of a set."""
    if isinstance(examples, EncodedSet):
        return examples.counted
    return np.fromiter((example.counted for example in examples), np.int64, len(examples))
