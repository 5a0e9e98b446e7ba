"""Evaluation items in training examples, found by their word sequences.

The method is that of GPT-3's 13-grams (arXiv:2005.14165, appendix C), with a
share of an item's sequences in the place of a single one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.spec.data import Decontamination
from workers.data.cleaning.words import Hashes, Ragged, WordMemo, ngrams, offsets_of, word_hashes
from workers.data.example import Example

LEAST_WORDS = 5
"""A shorter part of an item, such as the answer 42, says nothing about it."""
COMMON = 10
"""A sequence in more parts than this belongs to none of them: an instruction
or a turn of phrase that many items share. Ours."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An evaluation item that a text holds."""

    item: int
    """Index of the item."""
    share: float
    """Share of the word sequences of its prompt, or of its completion, in the text."""


class ItemIndex:
    """Word sequences of evaluation items; may be pickled.

    An item has two parts, prompt and completion. A text holds the item when at
    least `overlap` of the sequences of `words` words of one part occur in it.
    A part with fewer than `words` words is compared whole when it has at least
    LEAST_WORDS, and not at all when it has fewer. Sequences that more than
    COMMON different parts share are left out.
    """

    def __init__(self, items: Sequence[Example], spec: Decontamination) -> None:
        self._overlap = spec.overlap
        parts = _Parts.of(items, spec.words)
        self._owners = parts.owners
        self._tables = [
            _Table.of(length, parts, np.flatnonzero(parts.lengths == length))
            for length in np.unique(parts.lengths).tolist()
        ]

    def hits(self, texts: Sequence[str], memo: WordMemo | None = None) -> list[Hit | None]:
        """For each text the item of which it holds the largest share, the first of equals."""
        found: list[Hit | None] = [None] * len(texts)
        words = word_hashes(texts, memo)
        for table in self._tables:
            for row, part, share in table.shares(words):
                known = found[row]
                hit = Hit(int(self._owners[part]), share)
                if share >= self._overlap and (known is None or _rank(hit) > _rank(known)):
                    found[row] = hit
        return found


def _rank(hit: Hit) -> tuple[float, int]:
    return hit.share, -hit.item


@dataclass(frozen=True)
class _Parts:
    """The prompts and completions that are looked for, each once."""

    owners: NDArray[np.int64]
    """The item of each part."""
    lengths: NDArray[np.int64]
    """Length of its sequences, in words."""
    grams: list[Hashes]
    """Its different sequences."""

    @staticmethod
    def of(items: Sequence[Example], words: int) -> _Parts:
        texts = [text for item in items for text in (item.prompt, item.completion)]
        hashed = word_hashes(texts)
        sequences = ngrams(hashed, words)
        kept: dict[bytes, tuple[int, int, Hashes]] = {}
        for index in np.flatnonzero(hashed.lengths >= min(LEAST_WORDS, words)).tolist():
            grams = np.unique(sequences.row(index))
            length = min(int(hashed.lengths[index]), words)
            kept.setdefault(grams.tobytes(), (index // 2, length, grams))
        owners, lengths = ([part[place] for part in kept.values()] for place in (0, 1))
        different = [part[2] for part in kept.values()]
        return _Parts(np.array(owners, np.int64), np.array(lengths, np.int64), different)


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
    def of(length: int, parts: _Parts, chosen: NDArray[np.intp]) -> _Table:
        grams = np.concatenate([parts.grams[part] for part in chosen])
        holders = np.repeat(chosen, [len(parts.grams[part]) for part in chosen])
        unique, inverse, counts = np.unique(grams, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        listed = holders[order[counts[inverse[order]] <= COMMON]]
        rare = counts <= COMMON
        return _Table(
            length=length,
            grams=unique[rare],
            holders=listed,
            offsets=offsets_of(counts[rare]),
            sizes=np.bincount(listed, minlength=len(parts.grams)),
            sieve=_sieve(unique[rare]),
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
