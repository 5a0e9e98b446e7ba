from __future__ import annotations

from collections import Counter
from itertools import product
from math import comb, sqrt
from random import Random

import pytest

from hpo.statistics.resampling import binomial, percentiles, resampled_sums

DRAWS = 20_000
SIGMAS = 5


def expect_share(found: int, chance: float) -> None:
    spread = sqrt(max(chance * (1 - chance), 1e-12) / DRAWS)
    assert found / DRAWS == pytest.approx(chance, abs=SIGMAS * spread + 1e-12)


@pytest.mark.parametrize(
    ("trials", "share", "of"), [(1, 1, 3), (5, 2, 7), (9, 1, 2), (6, 3, 8), (4, 999, 1000)]
)
def test_binomial_has_the_right_distribution(trials: int, share: int, of: int) -> None:
    random = Random(1)
    found = Counter(binomial(trials, share, of, random) for _ in range(DRAWS))
    for successes in range(trials + 1):
        ways = comb(trials, successes) * share**successes * (of - share) ** (trials - successes)
        expect_share(found[successes], ways / of**trials)


def test_binomial_at_its_ends() -> None:
    random = Random(1)
    assert {binomial(50, 0, 7, random) for _ in range(100)} == {0}
    assert {binomial(50, 7, 7, random) for _ in range(100)} == {50}
    assert binomial(0, 1, 2, random) == 0


def test_binomial_of_a_large_number() -> None:
    random = Random(1)
    trials, share, of = 10**6, 123, 457
    mean, spread = trials * share / of, sqrt(trials * share * (of - share)) / of
    drawn = [binomial(trials, share, of, random) for _ in range(400)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, abs=SIGMAS * spread / sqrt(len(drawn)))


@pytest.mark.parametrize(
    "values",
    [[0.0, 1.0, 1.0, -1.0], [0.25, 0.5, 0.5, 1.0]],
)
def test_sums_are_distributed_as_over_all_draws(values: list[float]) -> None:
    every = Counter(sum(drawn) for drawn in product(values, repeat=len(values)))
    found = Counter(resampled_sums(values, DRAWS, seed=1))
    assert set(found) <= set(every)
    for total, ways in every.items():
        expect_share(found[total], ways / len(values) ** len(values))


def test_many_distinct_values_are_drawn_one_by_one() -> None:
    values = [number / 100 for number in range(100)]
    sums = list(resampled_sums(values, 4000, seed=1))
    mean, spread = sum(values), sqrt(sum((value - 0.495) ** 2 for value in values))
    assert sum(sums) / len(sums) == pytest.approx(mean, abs=SIGMAS * spread / sqrt(len(sums)))
    variance = sum((total - mean) ** 2 for total in sums) / len(sums)
    assert sqrt(variance) == pytest.approx(spread, rel=0.06)


@pytest.mark.parametrize("number", [20, 200])
def test_the_order_of_items_does_not_matter(number: int) -> None:
    values = [(7 * index % number) / number for index in range(number)]
    assert list(resampled_sums(values, 50, 3)) == list(resampled_sums(values[::-1], 50, 3))
    assert list(resampled_sums(values, 50, 3)) != list(resampled_sums(values, 50, 4))


def test_percentiles_leave_the_same_out_on_both_sides() -> None:
    assert percentiles(range(1000), 0.95) == (25, 974)
    assert percentiles([5.0], 0.95) == (5.0, 5.0)
