"""Finds texts that share most of their word sequences, exactly."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from workers.generation.wording import sequences, stable_hash

Hashes = npt.NDArray[np.uint64]


class SimilarTexts:
    """Accepted texts, searched by the Jaccard similarity of their word sequences.

    Prefix filtering (Bayardo et al. 2007, "Scaling up all pairs similarity
    search"): two sets of hashes that are similar enough share one of their
    few smallest, so only those are indexed. Nothing is approximated. Memory:
    8 bytes per word of a text, and an entry of the index for a share of
    1 - similarity of them.
    """

    def __init__(self, words: int, similarity: float) -> None:
        self._words = words
        self._similarity = similarity
        self._sets: list[Hashes] = []
        self._index: defaultdict[int, list[int]] = defaultdict(list)

    def find(self, text: list[str]) -> tuple[int, float] | None:
        """The first added text that is similar enough, by number, and its similarity."""
        hashes = self._hashes(text)
        candidates = {
            number for value in self._prefix(hashes) for number in self._index.get(value, ())
        }
        for number in sorted(candidates):
            similarity = _jaccard(hashes, self._sets[number])
            if similarity >= self._similarity:
                return number, similarity
        return None

    def add(self, text: list[str]) -> None:
        """Add a text, numbered in the order in which they come."""
        hashes = self._hashes(text)
        for value in self._prefix(hashes):
            self._index[value].append(len(self._sets))
        self._sets.append(hashes)

    def _hashes(self, text: list[str]) -> Hashes:
        found = {stable_hash(sequence) for sequence in sequences(text, self._words)}
        return np.array(sorted(found), dtype=np.uint64)

    def _prefix(self, hashes: Hashes) -> list[int]:
        size = len(hashes)
        # The margin keeps a product such as 0.8 * 5 from being rounded up to 5.
        shared = math.ceil(self._similarity * size - 1e-9)
        prefix: list[int] = hashes[: size - shared + 1].tolist()
        return prefix if size else []


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
