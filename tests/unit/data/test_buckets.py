from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.data.batches.buckets import LengthBuckets
from workers.data.batches.plain import PlainOrder


@st.composite
def orders(draw: st.DrawFn) -> tuple[PlainOrder, LengthBuckets, list[int]]:
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=60))
    plain = PlainOrder(len(lengths), draw(st.integers(1, 12)), draw(st.integers(0, 3)))
    batches = draw(st.integers(1, 6))
    return plain, LengthBuckets(plain, np.array(lengths), batches), lengths


@given(orders())
def test_every_epoch_holds_each_example_once(
    made: tuple[PlainOrder, LengthBuckets, list[int]],
) -> None:
    """Batches that cross the end of an epoch are the plain order's own."""
    plain, order, lengths = made
    count, size = len(lengths), plain.size
    for epoch in range(3):
        first, last = -(-epoch * count // size), (epoch + 1) * count // size
        inside = [order.batch(step) for step in range(first, last)]
        wanted = [plain.batch(step) for step in range(first, last)]
        assert all(len(batch) == size for batch in inside)
        assert sorted(chain(*inside)) == sorted(chain(*wanted))
        if epoch * count % size:
            assert order.batch(first - 1) == plain.batch(first - 1)


@given(orders(), st.lists(st.integers(0, 40), max_size=12))
def test_a_batch_follows_from_its_step_alone(
    made: tuple[PlainOrder, LengthBuckets, list[int]], steps: list[int]
) -> None:
    _, order, _ = made
    once = {step: order.batch(step) for step in range(41)}
    assert [order.batch(step) for step in steps] == [once[step] for step in steps]


def test_batches_are_of_similar_lengths_and_shuffled() -> None:
    lengths = np.arange(1, 65)
    plain = PlainOrder(64, 4, 0)
    order = LengthBuckets(plain, lengths, 8)
    for begin in (0, 8):
        batches = [order.batch(step) for step in range(begin, begin + 8)]
        group = sorted(chain(*(plain.batch(step) for step in range(begin, begin + 8))))
        assert sorted(batches) == [group[start : start + 4] for start in range(0, 32, 4)]
        assert batches != sorted(batches)


def test_one_batch_at_a_time_is_the_plain_order_sorted() -> None:
    plain = PlainOrder(20, 4, 0)
    order = LengthBuckets(plain, np.arange(20), 1)
    assert [order.batch(step) for step in range(10)] == [
        sorted(plain.batch(step)) for step in range(10)
    ]


def test_what_is_given_out_may_be_changed() -> None:
    order = LengthBuckets(PlainOrder(20, 4, 0), np.arange(20), 2)
    wanted = list(order.batch(0))
    order.batch(0).clear()
    assert order.batch(0) == wanted
