from __future__ import annotations

from math import nan
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.statistics.interval import Interval, accuracy_interval
from hpo.statistics.paired import paired_bootstrap
from hpo.statistics.wilson import wilson_interval

SCORES = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=40)


def test_right_and_wrong_items_have_wilsons_interval() -> None:
    scores = [1.0] * 30 + [0.0] * 70
    assert accuracy_interval(scores) == Interval(*wilson_interval(30, 100), "wilson")
    assert accuracy_interval([]) == Interval(0.0, 1.0, "wilson")
    wide = accuracy_interval(scores, confidence=0.99)
    assert (wide.low, wide.high) == wilson_interval(30, 100, 0.99)


def test_other_scores_are_resampled() -> None:
    random = Random(3)
    scores = [random.randrange(5) / 4 for _ in range(400)]
    interval = accuracy_interval(scores)
    assert interval.method == "bootstrap"
    # By the normal approximation; 0.25 * sqrt(2) is the spread of five even steps.
    half = 1.96 * 0.25 * 2**0.5 / 20
    assert interval.low == pytest.approx(fmean(scores) - half, abs=0.006)
    assert interval.high == pytest.approx(fmean(scores) + half, abs=0.006)
    assert accuracy_interval(scores[::-1]) == interval
    assert accuracy_interval(scores, seed=1) != interval


@settings(max_examples=40)
@given(st.lists(SCORES, min_size=1, max_size=60))
def test_bounds_stay_within_reach(scores: list[float]) -> None:
    interval = accuracy_interval(scores, resamples=200)
    assert 0 <= interval.low <= interval.high <= 1
    if interval.method == "bootstrap":
        assert min(scores) - 1e-9 <= interval.low
        assert interval.high <= max(scores) + 1e-9


@settings(max_examples=40)
@given(PAIRS)
def test_runs_that_change_places_mirror_the_difference(pairs: list[tuple[float, float]]) -> None:
    before, after = [was for was, _ in pairs], [now for _, now in pairs]
    one = paired_bootstrap(before, after, resamples=200)
    other = paired_bootstrap(after, before, resamples=200)
    assert (other.difference, other.low, other.high, other.p_value) == (
        -one.difference,
        -one.high,
        -one.low,
        one.p_value,
    )
    assert one.low <= one.high
    assert 0 < one.p_value <= 1
    assert one.difference == pytest.approx(fmean(after) - fmean(before), abs=1e-9)
    assert paired_bootstrap(before[::-1], after[::-1], resamples=200) == one


@given(st.lists(SCORES, min_size=1, max_size=40))
def test_equal_runs_do_not_differ(scores: list[float]) -> None:
    same = paired_bootstrap(scores, scores, resamples=50)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_difference_on_every_item_is_certain() -> None:
    found = paired_bootstrap([0.0] * 50, [1.0] * 50)
    assert (found.difference, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p_value == 1 / 10_001


def test_the_p_value_agrees_with_the_normal_approximation() -> None:
    # 60 items better, 40 worse: a standard deviation of sqrt(99.6) items, 2.004 of them.
    before = [0.0] * 60 + [1.0] * 40 + [1.0] * 900
    after = [1.0] * 60 + [0.0] * 40 + [1.0] * 900
    found = paired_bootstrap(before, after)
    # With continuity: half an item less.
    assert found.p_value == pytest.approx(0.0507, abs=0.01)
    assert found.low == pytest.approx(0.02 - 1.96 * 99.6**0.5 / 1000, abs=0.002)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ([], [], "0 items before"),
        ([1.0], [], "1 items before, 0 after"),
        ([nan], [1.0], "score nan"),
        ([1.0], [float("inf")], "score inf"),
    ],
)
def test_impossible_pairs_are_refused(before: list[float], after: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}.*allowed"):
        paired_bootstrap(before, after)


@pytest.mark.parametrize("score", [-0.1, 1.1, nan])
def test_impossible_scores_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="allowed are 0 to 1"):
        accuracy_interval([0.5, score])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="0 resamples: allowed"):
        paired_bootstrap([0.0], [1.0], resamples=0)
    with pytest.raises(ValueError, match="confidence 1: allowed"):
        accuracy_interval([0.5], confidence=1)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [50, 400])
def test_the_bootstrap_covers_the_truth_as_often_as_it_says(number: int) -> None:
    random = Random(7)
    covered = 0
    for experiment in range(600):
        scores = [random.randrange(5) / 4 for _ in range(number)]
        interval = accuracy_interval(scores, seed=experiment, resamples=500)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.92 <= covered / 600 <= 0.975


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_paired_test_finds_nothing_as_seldom_as_it_says() -> None:
    random = Random(7)
    found = 0
    for experiment in range(600):
        before = [float(random.random() < 0.5) for _ in range(200)]
        after = [was if random.random() < 0.7 else float(random.random() < 0.5) for was in before]
        found += paired_bootstrap(before, after, seed=experiment, resamples=500).p_value < 0.05
    assert 0.02 <= found / 600 <= 0.08
