from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.order import make_order
from workers.data.batches.plain import PlainOrder
from workers.data.tokens.encoded import EncodedExample, EncodedSet

COUNTS = st.integers(1, 40)
SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 5)
EXAMPLES = [EncodedExample.completion_only(range(2 + n % 7), 1) for n in range(30)]


def config(size: int = 4, **more: Any) -> TrainingConfig:
    given: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}, "epochs": 3}
    return TrainingConfig.model_validate(given | {"effective_batch_size": size} | more)


def taken(order: PlainOrder, steps: int) -> list[int]:
    return [index for step in range(steps) for index in order.batch(step)]


@given(COUNTS, SIZES, SEEDS)
def test_every_epoch_holds_each_example_once(count: int, size: int, seed: int) -> None:
    order = PlainOrder(count, size, seed)
    sequence = taken(order, -(-3 * count // size))
    for epoch in range(3):
        assert sorted(sequence[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(COUNTS, SIZES, SEEDS)
def test_an_epoch_is_the_permutation_of_seed_and_epoch(count: int, size: int, seed: int) -> None:
    """Written out, so that studies keep their order."""
    wanted = np.concatenate(
        [np.random.default_rng((seed, epoch)).permutation(count) for epoch in range(4)]
    )
    steps = 4 * count // size
    assert taken(PlainOrder(count, size, seed), steps) == wanted[: steps * size].tolist()


@given(COUNTS, SIZES, st.lists(st.integers(0, 60), max_size=12))
def test_a_batch_follows_from_its_step_alone(count: int, size: int, steps: list[int]) -> None:
    order = PlainOrder(count, size, 3)
    assert [order.batch(step) for step in steps] == [
        PlainOrder(count, size, 3).batch(step) for step in steps
    ]


def test_epochs_differ_and_so_do_seeds() -> None:
    order = PlainOrder(50, 50, 0)
    other = PlainOrder(50, 50, 1)
    assert len({tuple(each.batch(step)) for each in (order, other) for step in range(3)}) == 6


def test_a_million_examples_are_shuffled_once_an_epoch() -> None:
    order = PlainOrder(1_000_000, 16, 0)
    order.batch(0)
    started = time.process_time()
    for step in range(1000):
        order.batch(step)
    assert time.process_time() - started < 0.5


def test_the_seed_of_the_data_is_its_own() -> None:
    usual = make_order(config(seed=5), EXAMPLES, 20)
    own = make_order(config(seed=5, seeds={"data": 6}), EXAMPLES, 20)
    assert usual.batch(3) == PlainOrder(30, 4, 5).batch(3)
    assert own.batch(3) == PlainOrder(30, 4, 6).batch(3)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"length_buckets": 3},
        {"curriculum": {}},
        {"dynamic_curriculum": {}},
        {"curriculum": {}, "dynamic_curriculum": {"warmup_epochs": 0.5}},
    ],
)
def test_orders_of_stored_and_plain_examples_are_the_same(wanted: dict[str, Any]) -> None:
    stored, plain = (
        make_order(config(order=wanted), examples, 22)
        for examples in (EncodedSet.of(EXAMPLES), EXAMPLES)
    )
    assert plain.wants_losses == stored.wants_losses == ("dynamic_curriculum" in wanted)
    for step in range(22):
        batch = plain.batch(step)
        assert batch == stored.batch(step)
        assert len(batch) == 4
        assert all(type(index) is int for index in batch)
        for order in (plain, stored):
            order.observe(batch, [1.0 + index for index in batch])


def test_orders_without_losses_have_no_state() -> None:
    order = make_order(config(), EXAMPLES, 20)
    order.observe([1, 2], [1.0, 2.0])
    assert order.state() == {}
    order.restore({})
    assert order.batch(4) == PlainOrder(30, 4, 0).batch(4)


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        make_order(config(), [], 10)
