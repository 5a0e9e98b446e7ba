"""Whether two runs differ on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite

from hpo.statistics.resampling import percentiles, require_resampling, resampled_sums

_ROUNDING = 1e-9
"""Sums of scores that differ by less are the same."""


@dataclass(frozen=True)
class PairedDifference:
    """A difference of mean scores with its error bar."""

    difference: float
    """Mean after minus mean before."""
    low: float
    high: float
    p_value: float
    """Two-sided: the chance of a difference at least as large if there were none."""


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare scores on the same items by drawing items with replacement.

    The interval is the percentile bootstrap's. The p-value is the share of
    resamples whose difference is as far from the observed one as that is from
    none, both counted with the observed one (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, chapter 16; doi:10.1201/9780429246593). The
    result is the same for the same seed in any order of the items, and mirrored
    when the runs change places.

    Raises ValueError without items, when there are not as many in both, for
    scores that are not finite, and for a confidence or a number of resamples
    that cannot be.
    """
    require_resampling(confidence, resamples)
    differences = _differences(before, after)
    sign = _orientation(differences)
    turned = [sign * value for value in differences]
    sums = sorted(resampled_sums(turned, resamples, seed))
    low, high = (total / len(turned) for total in percentiles(sums, confidence))
    if sign < 0:
        low, high = -high, -low
    total = fsum(turned)
    as_far = sum(abs(one - total) >= abs(total) - _ROUNDING for one in sums)
    return PairedDifference(
        difference=sign * total / len(turned) + 0.0,
        low=low,
        high=high,
        p_value=(as_far + 1) / (resamples + 1),
    )


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    if len(before) != len(after) or not before:
        given = f"{len(before)} items before, {len(after)} after"
        raise ValueError(f"{given}: allowed are the same, at least one")
    for score in (*before, *after):
        if not isfinite(score):
            raise ValueError(f"score {score}: allowed are finite numbers")
    return [now - was for was, now in zip(before, after, strict=True)]


def _orientation(differences: Sequence[float]) -> int:
    """1 or -1, and the other for the same runs in changed places."""
    ordered = sorted(differences)
    mirrored = sorted(-value for value in differences)
    return 1 if ordered >= mirrored else -1


@dataclass(frozen=True)
class McNemar:
    """How often one run was right where the other was wrong."""

    only_before: int
    """Items that were right before and wrong after."""
    only_after: int
    """Items that were wrong before and right after."""
    p_value: float
    """Two-sided: the chance of counts at least as uneven if both were equally likely."""


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> McNemar:
    """Exact test on the same items (McNemar 1947, doi:10.1007/BF02295996).

    Items that both got right, or both wrong, say nothing. The others are coin
    flips if there is no difference: the p-value is twice the smaller tail of the
    binomial distribution with probability 1/2, at most 1.

    Raises ValueError when there are not as many items in both, or for values
    that are neither true nor false.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before, {len(after)} after: allowed are the same")
    for value in (*before, *after):
        if value not in (0, 1):
            raise ValueError(f"outcome {value!r}: allowed are true and false")
    pairs = list(zip(before, after, strict=True))
    only_before = sum(bool(was and not now) for was, now in pairs)
    only_after = sum(bool(now and not was) for was, now in pairs)
    return McNemar(only_before, only_after, _two_sided(only_before, only_after))


def _two_sided(heads: int, tails: int) -> float:
    """Twice the chance of at most the smaller number, in whole numbers up to the division."""
    flips = heads + tails
    ways = term = 1
    for chosen in range(min(heads, tails)):
        term = term * (flips - chosen) // (chosen + 1)
        ways += term
    every = 1 << flips
    return min(2 * ways, every) / every
