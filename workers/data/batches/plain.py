"""The order by default: shuffled anew each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.data.tokens.arrays import Integers


class Unobserved:
    """An order that losses do not change."""

    @property
    def wants_losses(self) -> bool:
        """Never."""
        return False

    def observe(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """Nothing to note."""

    def state(self) -> dict[str, Any]:
        """Nothing: the step says it all."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class PlainOrder(Unobserved):
    """Epoch after epoch, each a permutation drawn from (seed, epoch) alone.

    Batches go on across the ends of epochs, so each holds `size` examples.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count = count
        self.size = size
        self.seed = seed
        self.ranking = np.arange(count)
        """All examples, none before another."""
        self._epochs: dict[int, Integers] = {}

    def batch(self, step: int) -> list[int]:
        """Examples of an optimizer step, counted from 0."""
        indices: list[int] = self.between(step, step + 1).tolist()
        return indices

    def between(self, first: int, last: int) -> Integers:
        """Examples of the steps from `first` up to `last`, which is not one of them."""
        position, end = first * self.size, last * self.size
        parts: list[Integers] = []
        while position < end:
            epoch, offset = divmod(position, self.count)
            parts.append(self._permutation(epoch)[offset : offset + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def pool(self, step: int) -> int:
        """How many of the `ranking` a step draws from."""
        return self.count

    def _permutation(self, epoch: int) -> Integers:
        if epoch not in self._epochs:
            # A batch is seldom of more than two epochs; what is old is not asked for again.
            self._epochs = {one: self._epochs[one] for one in self._epochs if one == epoch - 1}
            random = np.random.default_rng((self.seed, epoch))
            self._epochs[epoch] = random.permutation(self.count)
        return self._epochs[epoch]
