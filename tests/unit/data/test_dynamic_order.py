from __future__ import annotations

import io
import time
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.spec.training.order import Curriculum, DynamicCurriculum
from workers.data.batches.curriculum import CurriculumOrder
from workers.data.batches.dynamic import LossOrder, draw
from workers.data.batches.plain import PlainOrder

STEPS = 24


def at_once(count: int, size: int, strength: float = 1.0) -> LossOrder:
    """Without a warm-up."""
    spec = DynamicCurriculum(warmup_epochs=0, strength=strength)
    return LossOrder(spec, PlainOrder(count, size, 0), count)


def shares(order: LossOrder, count: int, trials: int = 3000) -> list[float]:
    """How often each example comes in batches of one."""
    drawn = Counter(order.batch(step)[0] for step in range(trials))
    return [drawn[index] / trials for index in range(count)]


def test_the_warm_up_keeps_the_usual_order() -> None:
    spec = DynamicCurriculum(warmup_epochs=1.5)
    usual = PlainOrder(20, 4, 1)
    order = LossOrder(spec, PlainOrder(20, 4, 1), 20)
    for step in range(20):
        batch = order.batch(step)
        order.observe(batch, [0.1 + index for index in batch])
        # 1.5 epochs of 20 examples are 7.5 steps of 4.
        assert (batch == usual.batch(step)) == (step < 8)
        assert len(set(batch)) == 4 or step < 8


def test_examples_come_in_proportion_to_their_loss() -> None:
    order = at_once(4, 1)
    order.observe([0, 1, 2, 3], [9.0, 9.0, 1.0, 4.0])
    order.observe([1, 0], [3.0, 2.0])
    assert shares(order, 4) == pytest.approx([0.2, 0.3, 0.1, 0.4], abs=0.04)


def test_the_strength_is_an_exponent() -> None:
    order = at_once(3, 1, strength=2.0)
    order.observe([0, 1, 2], [1.0, 2.0, 3.0])
    assert shares(order, 3) == pytest.approx([1 / 14, 4 / 14, 9 / 14], abs=0.04)


def test_what_was_never_seen_counts_as_the_mean() -> None:
    order = at_once(4, 1)
    assert shares(order, 4) == pytest.approx([0.25] * 4, abs=0.04)
    order.observe([0, 2], [1.0, 3.0])
    assert shares(order, 4) == pytest.approx([1 / 8, 2 / 8, 3 / 8, 2 / 8], abs=0.04)


def test_draws_are_those_of_one_after_another_without_replacement() -> None:
    odds = np.array([4.0, 3.0, 2.0, 0.5, 0.1])
    trials = 20_000
    random = np.random.default_rng(0)
    drawn = Counter(tuple(draw(odds, 3, random)) for _ in range(trials))
    for places in permutations(range(5), 3):
        chance, left = 1.0, odds.sum()
        for place in places:
            chance *= odds[place] / left
            left -= odds[place]
        assert drawn[places] / trials == pytest.approx(chance, abs=0.012)


@given(st.lists(st.floats(1e-300, 1e260), min_size=1, max_size=30), st.data())
def test_any_odds_give_distinct_places(odds: list[float], data: st.DataObject) -> None:
    number = data.draw(st.integers(1, len(odds)))
    given_odds = np.array(odds)
    places = draw(given_odds, number, np.random.default_rng(0))
    assert len(set(places)) == len(places) == number
    assert set(places) <= set(range(len(odds)))
    assert given_odds.tolist() == odds


def test_more_places_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most 2, not 3"):
        draw(np.ones(2), 3, np.random.default_rng(0))


@pytest.mark.parametrize("strength", [1.0, 1000.0])
def test_extreme_losses_still_make_batches(strength: float) -> None:
    order = at_once(6, 4, strength)
    order.observe(range(6), [0.0, 0.0, 0.0, 1e30, 1e-30, 20.0])
    for step in range(5):
        assert len(set(order.batch(step))) == 4
        assert 3 in order.batch(step)


def test_a_batch_of_more_than_all_examples_repeats_them() -> None:
    order = at_once(3, 7)
    order.observe([0, 1, 2], [1.0, 2.0, 3.0])
    assert sorted(Counter(order.batch(0)).values()) == [2, 2, 3]


def test_the_pool_of_a_curriculum_is_kept() -> None:
    spec = Curriculum(start_fraction=0.5, until=1)
    difficulty = np.arange(40)[::-1].copy()
    usual = CurriculumOrder(spec, difficulty, 4, 0, 40)
    order = LossOrder(DynamicCurriculum(warmup_epochs=0.5), usual, 40)
    for step in range(40):
        batch = order.batch(step)
        assert set(batch) <= set(usual.ranking[: usual.pool(step)].tolist())
        order.observe(batch, [50.0 if index == 39 else 0.01 for index in batch])
        assert step < 5 or 39 in batch


@st.composite
def runs(draw_: st.DrawFn) -> dict[str, Any]:
    return {
        "count": draw_(st.integers(1, 30)),
        "size": draw_(st.integers(1, 10)),
        "strength": draw_(st.floats(0.1, 5)),
        "warmup": draw_(st.floats(0, 2)),
        "curriculum": draw_(st.booleans()),
        "stop": draw_(st.integers(0, STEPS)),
        "losses": np.random.default_rng(draw_(st.integers(0, 9))).exponential(2, (STEPS, 10)),
        "skipped": draw_(st.sets(st.integers(0, STEPS))),
    }


def fresh(run: dict[str, Any]) -> LossOrder:
    count, size = run["count"], run["size"]
    usual: PlainOrder | CurriculumOrder = PlainOrder(count, size, 3)
    if run["curriculum"]:
        usual = CurriculumOrder(Curriculum(), np.arange(count) % 5, size, 3, STEPS)
    spec = DynamicCurriculum(warmup_epochs=run["warmup"], strength=run["strength"])
    return LossOrder(spec, usual, count)


def play(order: LossOrder, run: dict[str, Any], first: int, last: int) -> list[list[int]]:
    batches = []
    for step in range(first, last):
        batches.append(order.batch(step))
        assert order.batch(step) == batches[-1]
        if step not in run["skipped"]:
            order.observe(batches[-1], run["losses"][step, : run["size"]].tolist())
    return batches


@settings(max_examples=40, deadline=None)
@given(runs())
def test_resumed_equals_uninterrupted(run: dict[str, Any]) -> None:
    whole = play(fresh(run), run, 0, STEPS)
    before, after = fresh(run), fresh(run)
    assert play(before, run, 0, run["stop"]) == whole[: run["stop"]]
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    play(before, run, run["stop"], STEPS)
    after.restore(torch.load(file, weights_only=True))
    assert play(after, run, run["stop"], STEPS) == whole[run["stop"] :]


def test_a_state_is_a_copy_and_of_these_examples() -> None:
    order = at_once(3, 1)
    state = order.state()
    order.observe([0], [1.0])
    assert state["losses"].isnan().all()
    order.restore(state)
    order.observe([0], [1.0])
    assert state["losses"].isnan().all()
    with pytest.raises(ValueError, match="losses of 3 examples, not of 4"):
        at_once(4, 1).restore(state)


def test_a_million_examples_cost_milliseconds_a_batch() -> None:
    order = at_once(1_000_000, 64)
    order.observe(range(1_000_000), np.linspace(0.1, 5, 1_000_000))  # type: ignore[arg-type]
    started = time.process_time()
    for step in range(10):
        order.observe(order.batch(step), [1.0] * 64)
    assert time.process_time() - started < 0.5
