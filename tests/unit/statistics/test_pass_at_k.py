from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.statistics.pass_at_k import pass_at_k


@st.composite
def counts(draw: st.DrawFn, most: int = 1000) -> tuple[int, int, int]:
    samples = draw(st.integers(1, most))
    return samples, draw(st.integers(0, samples)), draw(st.integers(1, samples))


@given(counts(most=9))
def test_it_is_the_share_of_all_choices_with_a_right_answer(given: tuple[int, int, int]) -> None:
    samples, right, k = given
    chosen = list(combinations(range(samples), k))
    good = sum(any(answer < right for answer in answers) for answers in chosen)
    assert pass_at_k(samples, right, k) == good / len(chosen)


@given(counts())
def test_it_agrees_with_the_published_product(given: tuple[int, int, int]) -> None:
    samples, right, k = given
    # arXiv:2107.03374, figure 3, here in fractions.
    wrong = samples - right
    missed = prod((1 - Fraction(k, n) for n in range(wrong + 1, samples + 1)), start=Fraction(1))
    wanted = 1.0 if wrong < k else float(1 - missed)
    assert pass_at_k(samples, right, k) == wanted


@given(counts())
def test_more_tries_and_more_right_answers_never_hurt(given: tuple[int, int, int]) -> None:
    samples, right, k = given
    value = pass_at_k(samples, right, k)
    assert 0 <= value <= 1
    assert pass_at_k(samples, right, 1) == right / samples
    if k > 1:
        assert pass_at_k(samples, right, k - 1) <= value
    if right:
        assert pass_at_k(samples, right - 1, k) <= value


@pytest.mark.parametrize(
    ("samples", "right", "k", "named"),
    [(4, 5, 1, "5 right of 4"), (4, -1, 1, "-1 right"), (4, 2, 5, "k is 5"), (4, 2, 0, "k is 0")],
)
def test_impossible_counts_are_refused(samples: int, right: int, k: int, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}.*allowed"):
        pass_at_k(samples, right, k)
