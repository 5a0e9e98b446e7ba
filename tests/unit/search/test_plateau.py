from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from hpo.search.plateau import plateau
from hpo.spec.study import EarlyStopping, Metric


def rule(patience: int, min_delta: float = 0.0, metric: Metric = "loss") -> EarlyStopping:
    return EarlyStopping(metric=metric, patience=patience, min_delta=min_delta)


@pytest.mark.parametrize(
    ("values", "patience", "end"),
    [
        ([], 1, None),
        ([1.0], 1, None),
        ([1.0, 0.9, 0.8], 1, None),
        ([1.0, 1.0], 1, 1),
        ([1.0, 1.1, 0.9, 0.9], 2, None),
        ([1.0, 1.1, 0.9, 0.9, 0.95], 2, 4),
        ([1.0, 1.1, 1.2, 0.5], 2, 2),
        ([0.5, 0.7, 0.6, 0.55], 3, 3),
    ],
)
def test_patience_counts_evaluations_without_improvement(
    values: list[float], patience: int, end: int | None
) -> None:
    assert plateau(values, rule(patience)) == end


def test_a_small_step_is_no_improvement() -> None:
    assert plateau([1.0, 0.9995], rule(1, 0.001)) == 1
    assert plateau([1.0, 0.99], rule(1, 0.001)) is None


def test_small_steps_add_up() -> None:
    assert plateau([1.0, 0.75, 0.5, 0.25, 0.0], rule(2, 0.375)) is None
    assert plateau([1.0, 0.75, 0.5], rule(1, 0.375)) == 1


def test_an_accuracy_improves_upwards() -> None:
    assert plateau([0.1, 0.2, 0.3], rule(1, metric="accuracy")) is None
    assert plateau([0.3, 0.2, 0.1], rule(2, metric="accuracy")) == 2


def by_hand(values: Sequence[float], patience: int, min_delta: float) -> int | None:
    """The end of falling values, from the indices that improved."""
    improved: list[int] = []
    for index, value in enumerate(values):
        if not improved or value < values[improved[-1]] - min_delta:
            improved.append(index)
        elif index - improved[-1] == patience:
            return index
    return None


@pytest.mark.parametrize("seed", range(50))
def test_against_an_independent_computation(seed: int) -> None:
    draw = random.Random(seed)
    # Multiples of 1/64, which subtract without rounding.
    values = [draw.randrange(64) / 64 for _ in range(draw.randrange(12))]
    for patience in (1, 2, 3):
        for min_delta in (0.0, 1 / 64, 0.25):
            expected = by_hand(values, patience, min_delta)
            assert plateau(values, rule(patience, min_delta)) == expected
            mirrored = [1 - value for value in values]
            assert plateau(mirrored, rule(patience, min_delta, "accuracy")) == expected


@pytest.mark.parametrize("seed", range(20))
def test_later_values_change_nothing(seed: int) -> None:
    draw = random.Random(seed)
    values = [draw.random() for _ in range(10)]
    end = plateau(values, rule(2))
    for count in range(len(values) + 1):
        seen = end if end is not None and end < count else None
        assert plateau(values[:count], rule(2)) == seen
