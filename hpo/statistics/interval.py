"""The error bar of an accuracy, whatever scores it is the mean of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpo.statistics.resampling import percentiles, require_resampling, resampled_sums
from hpo.statistics.wilson import wilson_interval


@dataclass(frozen=True)
class Interval:
    """Bounds of a mean score, from 0 to 1."""

    low: float
    high: float
    method: Literal["wilson", "bootstrap"]


def accuracy_interval(
    scores: Sequence[float],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2_000,
) -> Interval:
    """Interval of the mean of one score per item, each from 0 to 1.

    Wilson's where every item is right or wrong. Else the percentile bootstrap
    over items (Efron 1979, doi:10.1214/aos/1176344552), the same for the same
    seed. Where all items have the same score, the bootstrap sees no spread.

    Raises ValueError for scores beyond 0 to 1 and for a confidence or a number
    of resamples that cannot be.
    """
    require_resampling(confidence, resamples)
    for score in scores:
        if not 0 <= score <= 1:
            raise ValueError(f"score {score}: allowed are 0 to 1")
    if all(score in (0, 1) for score in scores):
        return Interval(*wilson_interval(int(sum(scores)), len(scores), confidence), "wilson")
    sums = sorted(resampled_sums(scores, resamples, seed))
    low, high = (total / len(scores) for total in percentiles(sums, confidence))
    return Interval(max(low, 0.0), min(high, 1.0), "bootstrap")
