"""Which rows of a step share a forward pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PASS_TOKENS = {"cpu": 256, "cuda": 4096}
"""Padded tokens that cost about as much as beginning a forward and backward
pass, by type of device. Ours; right within a factor of a few is enough."""


def split_rows(
    lengths: npt.NDArray[np.int64], most: int, pass_tokens: int
) -> list[tuple[int, int]]:
    """Half-open ranges of rows, each a pass of `most` rows at most.

    `lengths` fall from row to row. A pass pads its rows to the first, and
    costs `pass_tokens` besides. The ranges are those of least cost in all, by
    dynamic programming from the end; of equals the longer pass is taken.
    """
    count = len(lengths)
    best = np.zeros(count + 1, np.int64)
    ends = np.zeros(count, np.int64)
    for start in range(count - 1, -1, -1):
        rows = np.arange(1, min(most, count - start) + 1)
        costs = pass_tokens + rows * lengths[start] + best[start + rows]
        # The last of the smallest.
        chosen = int(rows[::-1][np.argmin(costs[::-1])])
        best[start], ends[start] = costs[chosen - 1], start + chosen
    ranges, start = [], 0
    while start < count:
        ranges.append((start, int(ends[start])))
        start = int(ends[start])
    return ranges
