"""Drawing items with replacement, quickly and without numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import fsum
from random import Random

_DIGITS = 12
"""Values that agree so far are the same; what differs more is no rounding."""
_FEW = 32
"""Distinct values up to which counts are drawn, which takes longer with each."""


def resampled_sums(values: Sequence[float], resamples: int, seed: int) -> Iterator[float]:
    """Sums over as many values as there are, each drawn from them with replacement.

    The draws depend on the values and the seed alone, not on the values' order.
    """
    random = Random(seed)
    counts = sorted(Counter(round(value, _DIGITS) for value in values).items())
    if len(counts) <= _FEW:
        return _sums_of_counts(counts, len(values), resamples, random)
    ordered = sorted(values)
    return (fsum(random.choices(ordered, k=len(ordered))) for _ in range(resamples))


def _sums_of_counts(
    counts: Sequence[tuple[float, int]], number: int, resamples: int, random: Random
) -> Iterator[float]:
    """As few draws as there are distinct values: how often each one is drawn."""
    for _ in range(resamples):
        left, among, total = number, number, 0.0
        for value, count in counts:
            drawn = binomial(left, count, among, random)
            total += drawn * value
            left -= drawn
            among -= count
        yield total


def binomial(trials: int, share: int, of: int, random: Random) -> int:
    """Draw how many of `trials` succeed, each with the exact chance `share / of`.

    Each trial draws a number from 0 to 1, whose binary digits are compared with
    those of the chance. All trials draw a digit at once; about half of them are
    decided by it, so the number of rounds grows with the logarithm of `trials`.
    """
    if share >= of:
        return trials
    successes = 0
    while trials:
        share *= 2
        ones = random.getrandbits(trials).bit_count()
        if share >= of:
            # The chance has a one here: a zero is below it.
            share -= of
            successes += trials - ones
            trials = ones
        else:
            trials -= ones
        if share == 0:
            # What is left equals the chance so far, so it can only be above.
            break
    return successes


def percentiles(ordered: Sequence[float], confidence: float) -> tuple[float, float]:
    """The values that leave the same share out on each side of a sorted sequence."""
    outside = int(len(ordered) * (1 - confidence) / 2)
    return ordered[outside], ordered[len(ordered) - 1 - outside]


def require_resampling(confidence: float, resamples: int) -> None:
    """Raise ValueError for a confidence or a number of resamples that cannot be."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: allowed is more than 0 and less than 1")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples: allowed is 1 or more")
