"""Evaluation items in training examples, found by their word sequences.

The method is that of GPT-3's 13-grams (arXiv:2005.14165, appendix C), with a
share of an item's own sequences in the place of a single one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.spec.cleaning import Decontamination
from workers.data.cleaning.own_text import Part, Sought
from workers.data.cleaning.words import Hashes, Ragged, WordMemo, ngrams, word_hashes
from workers.data.example import Example
from workers.data.offsets import offsets_of


@dataclass(frozen=True, slots=True)
class Hit:
    """An evaluation item that a text holds."""

    item: int
    """Index of the item."""
    share: float
    """Share of the sequences of its prompt, or of its completion, that the text holds."""


class ItemIndex:
    """Word sequences of evaluation items; may be pickled.

    A text holds an item when it holds enough of the sequences of one of the
    item's parts: which parts those are, and how much is enough, is defined in
    `Sought`. A part that a text holds in full is always found; text that many
    items share never makes one be found.
    """

    def __init__(self, items: Sequence[Example], spec: Decontamination) -> None:
        sought = Sought.of(items, spec)
        self.items = len(items)
        """How many items there are."""
        self.not_compared = sought.not_compared
        """Items of which nothing is looked for: too short, or shared with other items."""
        self._owners = sought.owners
        self._needed = [part.needed for part in sought.parts]
        lengths = {part.length for part in sought.parts}
        self._tables = [_Table.of(length, sought.parts) for length in sorted(lengths)]

    def hits(self, texts: Sequence[str], memo: WordMemo | None = None) -> list[Hit | None]:
        """For each text the item of which it holds the largest share, the first of equals."""
        found: list[Hit | None] = [None] * len(texts)
        words = word_hashes(texts, memo)
        for table in self._tables:
            for row, part, share in table.shares(words):
                if share < self._needed[part]:
                    continue
                known, hit = found[row], Hit(int(self._owners[part]), share)
                if known is None or _rank(hit) > _rank(known):
                    found[row] = hit
        return found


def _rank(hit: Hit) -> tuple[float, int]:
    return hit.share, -hit.item


@dataclass(frozen=True)
class _Table:
    """The sequences of one length: which parts hold each of them."""

    length: int
    grams: Hashes
    """Different sequences, sorted."""
    holders: NDArray[np.int64]
    """The parts that hold the first sequence, then those of the second, ..."""
    offsets: NDArray[np.int64]
    """Where each sequence's parts begin and end in `holders`."""
    sizes: NDArray[np.int64]
    """For each part how many sequences it has here."""
    sieve: NDArray[np.bool_]
    """Whether any sequence begins with these bits."""

    @staticmethod
    def of(length: int, parts: Sequence[Part]) -> _Table:
        sizes = [len(part.grams) if part.length == length else 0 for part in parts]
        grams = np.concatenate([part.grams for part in parts if part.length == length])
        holders = np.repeat(np.arange(len(parts)), sizes)
        unique, counts = np.unique(grams, return_counts=True)
        return _Table(
            length=length,
            grams=unique,
            holders=holders[np.argsort(grams, kind="stable")],
            offsets=offsets_of(counts),
            sizes=np.array(sizes, np.int64),
            sieve=_sieve(unique),
        )

    def shares(self, words: Ragged) -> Iterator[tuple[int, int, float]]:
        """Row, part and share of the part's sequences that the row holds, where any."""
        if not len(self.grams):
            return
        grams = ngrams(words, self.length)
        passed = np.flatnonzero(self.sieve[_leading(grams.values, self.sieve)])
        places = np.searchsorted(self.grams, grams.values[passed])
        places = np.minimum(places, len(self.grams) - 1)
        real = self.grams[places] == grams.values[passed]
        rows = np.searchsorted(grams.offsets, passed[real], side="right") - 1
        pairs = np.unique(rows * len(self.grams) + places[real])
        rows, places = np.divmod(pairs, len(self.grams))
        yield from self._counted(rows, places)

    def _counted(
        self, rows: NDArray[np.int64], places: NDArray[np.int64]
    ) -> Iterator[tuple[int, int, float]]:
        """Counts the parts that hold the sequences found, row by row."""
        different, firsts = np.unique(rows, return_index=True)
        bounds = itertools.pairwise([*firsts.tolist(), len(rows)])
        for row, (begin, end) in zip(different.tolist(), bounds, strict=True):
            found = places[begin:end]
            spans = zip(self.offsets[found], self.offsets[found + 1], strict=True)
            holders = np.concatenate([self.holders[start:stop] for start, stop in spans])
            parts, counts = np.unique(holders, return_counts=True)
            for part, count in zip(parts.tolist(), counts.tolist(), strict=True):
                yield row, part, count / int(self.sizes[part])


def _sieve(grams: Hashes) -> NDArray[np.bool_]:
    """A table that a hash is looked up in by its leading bits, eight places per sequence."""
    sieve = np.zeros(1 << max((8 * len(grams)).bit_length(), 8), bool)
    sieve[_leading(grams, sieve)] = True
    return sieve


def _leading(grams: Hashes, sieve: NDArray[np.bool_]) -> Hashes:
    return grams >> np.uint64(65 - len(sieve).bit_length())
