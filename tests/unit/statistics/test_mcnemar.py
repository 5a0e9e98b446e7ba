from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.statistics.paired import McNemar, mcnemar

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200)


def compared(pairs: list[tuple[bool, bool]]) -> McNemar:
    return mcnemar([was for was, _ in pairs], [now for _, now in pairs])


@pytest.mark.parametrize(
    ("only_before", "only_after", "p_value"),
    # Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91: both examples, exact test.
    [(1, 7, 0.0703), (6, 16, 0.0525)],
)
def test_published_values(only_before: int, only_after: int, p_value: float) -> None:
    pairs = [(True, False)] * only_before + [(False, True)] * only_after + [(True, True)] * 5
    test = compared(pairs)
    assert (test.only_before, test.only_after) == (only_before, only_after)
    assert test.p_value == pytest.approx(p_value, abs=5e-5)


@pytest.mark.parametrize("flips", range(11))
def test_it_is_the_share_of_flips_at_least_as_uneven(flips: int) -> None:
    every = [sum(coins) for coins in product((0, 1), repeat=flips)]
    for heads in range(flips + 1):
        uneven = abs(heads - flips / 2)
        share = sum(abs(other - flips / 2) >= uneven for other in every) / len(every)
        test = compared([(True, False)] * heads + [(False, True)] * (flips - heads))
        assert test.p_value == share


@given(PAIRS)
def test_it_is_symmetric_and_bounded(pairs: list[tuple[bool, bool]]) -> None:
    test = compared(pairs)
    turned = compared([(now, was) for was, now in pairs])
    assert turned == McNemar(test.only_after, test.only_before, test.p_value)
    assert 0 < test.p_value <= 1
    assert test == compared(pairs[::-1])
    assert test == compared([*pairs, (True, True), (False, False)])


@given(st.lists(st.booleans()))
def test_without_discordant_pairs_nothing_differs(outcomes: list[bool]) -> None:
    assert mcnemar(outcomes, outcomes) == McNemar(0, 0, 1.0)


def test_thousands_of_discordant_pairs() -> None:
    assert compared([(True, False)] * 5000).p_value == 0.0
    assert compared([(True, False), (False, True)] * 5000).p_value == 1.0


def test_impossible_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items before, 1 after: allowed"):
        mcnemar([True, False], [True])
    with pytest.raises(ValueError, match=r"outcome 0\.5: allowed are true and false"):
        mcnemar([True], [0.5])  # type: ignore[list-item]
