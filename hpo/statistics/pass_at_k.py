"""The chance that one of several answers is right."""

from __future__ import annotations

from math import comb


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` answers to a prompt is right.

    `right` of `samples` answers were: 1 - C(samples - right, k) / C(samples, k)
    (arXiv:2107.03374, equation 1), in whole numbers up to one last division.

    Raises ValueError for counts that cannot be.
    """
    if not 0 <= right <= samples:
        raise ValueError(f"{right} right of {samples} samples: allowed are 0 to {samples}")
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, with {samples} samples: allowed are 1 to {samples}")
    every = comb(samples, k)
    return (every - comb(samples - right, k)) / every
