"""Batches of examples of similar lengths, which need little padding."""

from __future__ import annotations

import numpy as np

from workers.data.batches.plain import PlainOrder, Unobserved
from workers.data.tokens.arrays import Integers


class LengthBuckets(Unobserved):
    """The plain order, sorted by length within every `batches` batches.

    The sorted examples are cut into batches again, which come in an order
    drawn from (seed, first of their steps). A batch that holds the end of an
    epoch stays as it is, so that each epoch has each example once.
    """

    def __init__(self, plain: PlainOrder, lengths: Integers, batches: int) -> None:
        self._plain = plain
        self._lengths = lengths
        self._batches = batches
        self._first = -1
        self._held: list[list[int]] = []

    def batch(self, step: int) -> list[int]:
        """Examples of an optimizer step, counted from 0."""
        count, size = self._plain.count, self._plain.size
        epoch = step * size // count
        begin, end = -(-epoch * count // size), (epoch + 1) * count // size
        if step >= end:
            return self._plain.batch(step)
        first = step - (step - begin) % self._batches
        if first != self._first:
            self._held = self._sorted(first, min(first + self._batches, end))
            self._first = first
        return list(self._held[step - first])

    def _sorted(self, first: int, last: int) -> list[list[int]]:
        indices = self._plain.between(first, last)
        indices = indices[np.argsort(self._lengths[indices], kind="stable")]
        # The last number keeps these draws apart from those of the epochs.
        random = np.random.default_rng((self._plain.seed, first, 1))
        batches: list[list[int]] = random.permutation(indices.reshape(last - first, -1)).tolist()
        return batches
