"""The endless shuffled order of training examples."""

from __future__ import annotations

import numpy as np


class ExampleOrder:
    """Indices of examples, epoch after epoch, each epoch in an order of its own.

    The permutation of an epoch is drawn from (seed, epoch) alone, so `position`
    is the whole state: setting it restores the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        self.count = count
        self.seed = seed
        self.position = 0
        """Examples drawn so far."""

    def take(self, n: int) -> list[int]:
        """The next `n` indices, across the ends of epochs."""
        indices: list[int] = []
        while len(indices) < n:
            epoch, offset = divmod(self.position, self.count)
            part = self._permutation(epoch)[offset : offset + n - len(indices)]
            indices += part.tolist()
            self.position += len(part)
        return indices

    def _permutation(self, epoch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)
