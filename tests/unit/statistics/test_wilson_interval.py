from __future__ import annotations

import pytest

from hpo.statistics.wilson import wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, score method.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(correct: int, total: int, low: float, high: float) -> None:
    got = wilson_interval(correct, total)
    assert got == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 500, 10**6])
def test_ends_are_exact(total: int) -> None:
    low, high = wilson_interval(0, total)
    assert low == 0.0
    assert 0 < high < 1
    low, high = wilson_interval(total, total)
    assert 0 < low < 1
    assert high == 1.0


def test_nothing_is_known_without_items() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_confidence_is_a_wider_interval() -> None:
    low, high = wilson_interval(30, 100, confidence=0.99)
    inner_low, inner_high = wilson_interval(30, 100, confidence=0.9)
    assert low < inner_low < 0.3 < inner_high < high


@pytest.mark.parametrize(
    ("correct", "total", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0)]
)
def test_impossible_input_is_refused(correct: int, total: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        wilson_interval(correct, total, confidence)
