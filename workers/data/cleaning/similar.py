"""Search for similar MinHash signatures: locality-sensitive hashing in arrays.

Signatures are cut into bands; only rows that agree in a whole band are
compared (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Signatures = NDArray[np.uint32]
Indices = NDArray[np.int64]

BLOCK = 256
"""Rows that are decided together."""
REPRESENTATIVES = 64
"""Kept rows of one bucket that later rows are compared with: the first ones."""
_GATHERED = 8192
"""Signatures that are read at once."""
_FALSE_NEGATIVE, _FALSE_POSITIVE = 0.9, 0.1
"""Weights of errors. A pair that is compared in vain costs time only."""
_BASE = 0x9E3779B97F4A7C15


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Number of bands and rows per band for a threshold.

    As datasketch chooses them: they minimise the weighted areas of the false
    positives below the threshold and the false negatives above it, where a
    pair of similarity s is found with probability 1 - (1 - s^rows)^bands.
    """
    similarity = (np.arange(400) + 0.5) / 400
    below = similarity < threshold

    def error(number: int, rows: int) -> float:
        missed = (1 - similarity**rows) ** number
        false_negative = float(missed[~below].sum())
        return _FALSE_POSITIVE * float((1 - missed)[below].sum()) + _FALSE_NEGATIVE * false_negative

    choices = (
        (number, rows)
        for number in range(1, permutations + 1)
        for rows in range(1, permutations // number + 1)
    )
    return min(choices, key=lambda choice: error(*choice))


def keys(signatures: Signatures, rows: Indices, columns: slice) -> NDArray[np.uint64]:
    """A 64-bit hash of some columns of each row, uint64[len(rows)]."""
    width = len(range(*columns.indices(signatures.shape[1])))
    factors = [pow(_BASE, position + 1, 1 << 64) for position in range(width)]
    weights = np.array(factors, np.uint64)
    found = np.empty(len(rows), np.uint64)
    for part in pieces(len(rows), _GATHERED):
        found[part] = (signatures[rows[part], columns] * weights).sum(axis=1)
    return found


def pieces(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `length`."""
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))


def alike(signatures: Signatures, one: Indices, other: Indices, least: int) -> NDArray[np.bool_]:
    """Whether the signatures of each pair of rows agree in `least` places, bool[pairs]."""
    found = np.empty(len(one), bool)
    for part in pieces(len(one), _GATHERED):
        agreed = signatures[one[part]] == signatures[other[part]]
        found[part] = np.count_nonzero(agreed, axis=1) >= least
    return found


def earlier_kept(signatures: Signatures, rows: Indices, threshold: float) -> Indices:
    """For each of `rows` the first kept one before it that it is similar to, or -1.

    `rows` are indices of signatures in increasing order; the result holds such
    indices, int64[len(rows)]. A row that is similar to a kept one is not kept
    itself. Two rows are similar when they agree in a band and the estimate of
    their Jaccard similarity is at least `threshold`.

    Each row meets at most REPRESENTATIVES kept rows of each of its buckets and
    the rows of its own block, so the time grows linearly even where all rows
    fall into one bucket. Memory beside the signatures: at most about 18 bytes
    per row and band.
    """
    number, width = bands(threshold, signatures.shape[1])
    starts, room = _buckets(signatures, rows, number, width)
    shared = np.flatnonzero((starts >= 0).any(axis=1))
    least = math.ceil(threshold * signatures.shape[1] - 1e-9)
    search = _Search(signatures, rows[shared], starts[shared], room, least)
    found = np.full(len(rows), -1, np.int64)
    found[shared] = search.run()
    return found


def _buckets(
    signatures: Signatures, rows: Indices, number: int, width: int
) -> tuple[NDArray[np.signedinteger], int]:
    """Where each row's buckets keep their representatives, [rows, bands], and the room for all.

    A row that is alone in a bucket has -1 there.
    """
    small = len(rows) * number < np.iinfo(np.int32).max
    starts = np.full((len(rows), number), -1, np.int32 if small else np.int64)
    used = 0
    for band in range(number):
        key = keys(signatures, rows, slice(band * width, (band + 1) * width))
        order = np.argsort(key, kind="stable")
        heads = np.flatnonzero(np.r_[True, key[order[1:]] != key[order[:-1]]][: len(rows)])
        sizes = np.diff(heads, append=len(rows))
        needed = np.where(sizes > 1, np.minimum(sizes, REPRESENTATIVES), 0)
        first = np.where(sizes > 1, used + np.cumsum(needed) - needed, -1)
        starts[order, band] = np.repeat(first, sizes)
        used += int(needed.sum())
    return starts, used


class _Search:
    """Decides rows block by block, in order, against the kept ones of their buckets."""

    def __init__(
        self,
        signatures: Signatures,
        rows: Indices,
        starts: NDArray[np.signedinteger],
        room: int,
        least: int,
    ) -> None:
        self._signatures = signatures
        self._rows = rows
        self._starts = starts
        self._least = least
        self._kept = np.zeros(room, starts.dtype)
        """Positions in `rows`; a bucket's begin at its start."""
        self._counts = np.zeros(room, np.uint8)
        """How many a bucket has, at its start."""

    def run(self) -> Indices:
        """Per row the signature index of what it is similar to, or -1."""
        found = np.full(len(self._rows), -1, np.int64)
        for part in pieces(len(self._rows), BLOCK):
            block = np.arange(part.start, part.stop)
            found[block] = self._among_kept(block)
            undecided = block[found[block] < 0]
            found[undecided] = self._among_themselves(undecided)
            self._keep(undecided[found[undecided] < 0])
        similar = found >= 0
        found[similar] = self._rows[found[similar]]
        return found

    def _among_kept(self, block: Indices) -> Indices:
        starts = self._starts[block].astype(np.int64)
        counts = np.where(starts < 0, 0, self._counts[starts]).astype(np.int64)
        places = np.repeat(starts.ravel(), counts.ravel()) + _ranks(counts.ravel())
        members = np.repeat(np.arange(len(block)), counts.sum(axis=1))
        found = np.full(len(block), -1, np.int64)
        member, kept = self._verified(block, members, self._kept[places].astype(np.int64))
        # Pairs are sorted, so the first of each row is its earliest.
        matched, first = np.unique(member, return_index=True)
        found[matched] = kept[first]
        return found

    def _among_themselves(self, block: Indices) -> Indices:
        members, buckets = self._entries(block)
        later, earlier = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for distance in range(1, len(block)):
            same = buckets[distance:] == buckets[:-distance]
            if not same.any():
                break
            earlier.append(members[:-distance][same])
            later.append(members[distance:][same])
        pairs = self._verified(block, np.concatenate(later), block[np.concatenate(earlier)])
        return _first_kept(block, *pairs)

    def _verified(
        self, block: Indices, members: Indices, others: Indices
    ) -> tuple[Indices, Indices]:
        """The pairs that are similar, each once, sorted: place in the block, other row."""
        pairs = np.unique(members * len(self._rows) + others)
        members, others = np.divmod(pairs, len(self._rows))
        rows = self._rows
        good = alike(self._signatures, rows[block[members]], rows[others], self._least)
        return members[good], others[good]

    def _entries(self, block: Indices) -> tuple[Indices, Indices]:
        """Place in the block and bucket of all its entries, by bucket, then by place."""
        starts = self._starts[block].astype(np.int64)
        members, band = np.nonzero(starts >= 0)
        buckets = starts[members, band]
        order = np.argsort(buckets, kind="stable")
        return members[order], buckets[order]

    def _keep(self, block: Indices) -> None:
        """Makes rows representatives of their buckets, as far as there is room."""
        members, entries = self._entries(block)
        buckets, counts = np.unique(entries, return_counts=True)
        places = self._counts[entries] + _ranks(counts)
        room = places < REPRESENTATIVES
        self._kept[entries[room] + places[room]] = block[members[room]]
        self._counts[buckets] = np.minimum(self._counts[buckets] + counts, REPRESENTATIVES)


def _first_kept(block: Indices, members: Indices, others: Indices) -> Indices:
    """Decides the rows of a block among themselves, in order.

    Row `block[members[i]]` is similar to row `others[i]` of the same block;
    pairs are sorted.
    """
    found = np.full(len(block), -1, np.int64)
    places = np.searchsorted(block, others)
    for member, place in zip(members.tolist(), places.tolist(), strict=True):
        if found[member] < 0 and found[place] < 0:
            found[member] = block[place]
    return found


def _ranks(counts: NDArray[np.signedinteger]) -> Indices:
    """0, 1, ... count - 1 for each count, one after the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    begins: Indices = np.repeat(ends - counts, counts)
    return np.arange(len(begins)) - begins
