from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.training.order import Curriculum
from workers.data.batches.curriculum import CurriculumOrder

SPEC = Curriculum(start_fraction=0.7, until=0.5)


@st.composite
def orders(draw: st.DrawFn) -> tuple[CurriculumOrder, int]:
    difficulty = draw(st.lists(st.integers(1, 9), min_size=1, max_size=50))
    spec = Curriculum(start_fraction=draw(st.floats(0.01, 1)), until=draw(st.floats(0.01, 1)))
    steps = draw(st.integers(1, 30))
    size, seed = draw(st.integers(1, 12)), draw(st.integers(0, 3))
    return CurriculumOrder(spec, np.array(difficulty), size, seed, steps), steps


@given(orders())
def test_the_least_often_seen_of_the_pool_come_first(made: tuple[CurriculumOrder, int]) -> None:
    order, steps = made
    seen: Counter[int] = Counter()
    for step in range(steps):
        pool = order.ranking[: order.pool(step)].tolist()
        batch = order.batch(step)
        assert len(batch) == order.size
        assert set(batch) <= set(pool)
        assert len(set(batch)) == min(order.size, len(pool))
        seen.update(batch)
        if len(pool) >= order.size:
            left = min((seen[one] for one in pool if one not in batch), default=math.inf)
            assert all(seen[one] - 1 <= left for one in batch)


@given(orders(), st.lists(st.integers(0, 29), max_size=6))
def test_a_batch_follows_from_its_step_alone(
    made: tuple[CurriculumOrder, int], steps: list[int]
) -> None:
    order, _ = made
    once = {step: order.batch(step) for step in range(30)}
    assert [order.batch(step) for step in steps] == [once[step] for step in steps]


def test_the_pool_grows_linearly_from_the_easiest() -> None:
    difficulty = np.array([3, 1, 2, 2, 1] * 20)
    order = CurriculumOrder(Curriculum(start_fraction=0.2, until=0.5), difficulty, 4, 0, 100)
    assert order.ranking.tolist() == sorted(range(100), key=lambda one: (difficulty[one], one))
    sizes = [order.pool(step) for step in range(60)]
    assert sizes == [round(100 * min(1, 0.2 + 0.8 * step / 50)) for step in range(60)]
    assert all(difficulty[one] == 1 for one in order.batch(0))


def test_a_pool_has_at_least_one_batch() -> None:
    order = CurriculumOrder(Curriculum(start_fraction=0.01, until=1), np.arange(100), 8, 0, 50)
    assert order.pool(0) == 8
    assert sorted(order.batch(0)) == list(range(8))


def test_a_trial_of_one_epoch_sees_each_example_once() -> None:
    order = CurriculumOrder(SPEC, np.arange(400), 8, 0, 50)
    batches = [order.batch(step) for step in range(50)]
    assert sorted(chain(*batches)) == list(range(400))
    early, late = list(chain(*batches[:10])), list(chain(*batches[-10:]))
    assert max(early) < 400 * 0.84
    assert np.mean(early) < np.mean(late) - 50


def test_with_everything_in_the_pool_these_are_epochs() -> None:
    order = CurriculumOrder(Curriculum(start_fraction=1, until=1), np.arange(20), 6, 0, 20)
    sequence = list(chain(*(order.batch(step) for step in range(20))))
    epochs = [sequence[start : start + 20] for start in range(0, 120, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_draws_are_uniform_among_those_seen_as_often() -> None:
    """Two of five examples, then, with three new ones, two of the six not seen yet."""
    drawn: Counter[tuple[int, int]] = Counter()
    trials = 1500
    spec = Curriculum(start_fraction=0.5, until=1 / 3)
    for seed in range(trials):
        order = CurriculumOrder(spec, np.arange(10), 2, seed, 5)
        assert (order.pool(0), order.pool(1)) == (5, 8)
        drawn.update((step, one) for step in (0, 1) for one in order.batch(step))
    wanted = {0: [2 / 5] * 5 + [0] * 5, 1: [3 / 5 / 3] * 5 + [1 / 3] * 3 + [0] * 2}
    for step, chances in wanted.items():
        shares = [drawn[step, one] / trials for one in range(10)]
        assert shares == pytest.approx(chances, abs=0.05)
