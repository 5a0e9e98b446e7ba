"""Where rows of uneven length begin in one flat array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def offsets_of(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where rows of these lengths begin, and where the last one ends, int64[n + 1]."""
    sums = np.cumsum(np.asarray(lengths, np.int64), dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), sums])
