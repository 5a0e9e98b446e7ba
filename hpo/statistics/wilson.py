"""The error bar of an accuracy."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson 1927, doi:10.2307/2276774).

    `correct` of `total` items were right. Returns the lower and upper bound as
    shares of one; with no items at all nothing is known: (0, 1).

    Raises ValueError for counts or a confidence that cannot be.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: allowed are 0 to {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: allowed is more than 0 and less than 1")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    scale = 1 + z * z / total
    center = (share + z * z / (2 * total)) / scale
    half = z / scale * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # Rounding must not push a bound past its exact value.
    low = 0.0 if correct == 0 else center - half
    high = 1.0 if correct == total else center + half
    return low, high
