"""Texts as arrays of word hashes, and the hashes of their word sequences."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.data.cleaning.text import folded
from workers.data.offsets import offsets_of

Hashes = NDArray[np.uint64]

MEMO_WORDS = 1 << 18
"""Words that a memo holds at most: about 30 MB."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing modulo 2 to the 64."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths in one array.

    Row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` has one entry more
    than there are rows.
    """

    values: Hashes
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Entries of each row, int64[n]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Hashes:
        """One row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class WordMemo(dict[str, int]):
    """64-bit hashes of words, computed once; the same in every process.

    It starts again from nothing when it is full, so its size is bounded.
    """

    def __missing__(self, word: str) -> int:
        if len(self) >= MEMO_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


def word_hashes(texts: Sequence[str], memo: WordMemo | None = None) -> Ragged:
    r"""The hashes of the words of each text.

    A word is a run of word characters (`\w+`) of the text without case, in
    Unicode form NFKC. In scripts without spaces that is a whole clause.
    """
    look_up = (WordMemo() if memo is None else memo).__getitem__
    rows = [list(map(look_up, _WORD.findall(folded(content)))) for content in texts]
    offsets = offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    flat = itertools.chain.from_iterable(rows)
    return Ragged(np.fromiter(flat, np.uint64, int(offsets[-1])), offsets)


def ngrams(words: Ragged, n: int) -> Ragged:
    """The hashes of each row's sequences of `n` words, in order.

    Sequences never go across rows. A row with fewer words gives one hash of
    all of them, or none when it is empty.
    """
    lengths = words.lengths
    offsets = offsets_of(np.where(lengths < n, np.minimum(lengths, 1), lengths - n + 1))
    short = np.flatnonzero((lengths > 0) & (lengths < n))
    values = np.empty(offsets[-1], np.uint64)
    is_long = np.ones(len(values), bool)
    is_long[offsets[short]] = False
    values[offsets[short]] = _combined_short(words, short, n)
    values[is_long] = _combined_long(words, n)
    return Ragged(values, offsets)


def _combined_long(words: Ragged, n: int) -> Hashes:
    """All sequences of `n` words that lie in one row, as polynomials modulo 2 to the 64."""
    starts = max(len(words.values) - n + 1, 0)
    combined = np.zeros(starts, np.uint64)
    for position in range(n):
        combined *= _BASE
        combined += words.values[position : position + starts]
    ends = np.repeat(words.offsets[1:], words.lengths)[:starts]
    return combined[np.arange(n, starts + n) <= ends]


def _combined_short(words: Ragged, rows: NDArray[np.intp], n: int) -> Hashes:
    lengths, starts = words.lengths[rows], words.offsets[rows]
    combined = np.zeros(len(rows), np.uint64)
    for position in range(min(n - 1, int(lengths.max(initial=0)))):
        longer = lengths > position
        combined[longer] *= _BASE
        combined[longer] += words.values[starts[longer] + position]
    return combined
