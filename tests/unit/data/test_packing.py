from __future__ import annotations

import math
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.data.batches.packing import pack


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 32))
def test_packing_is_a_partition_within_capacity(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert row
        assert len(row) == 1 or sum(lengths[index] for index in row) <= capacity
    assert pack(np.array(lengths, np.int64), capacity) == rows


@given(st.lists(st.integers(1, 32), min_size=1, max_size=60))
def test_rows_are_few(lengths: list[int]) -> None:
    fewest = math.ceil(sum(lengths) / 32)
    halves = sum(length > 16 for length in lengths)
    # The bound is on the optimum, of which this is a lower bound; no two halves share a row.
    assert len(pack(lengths, 32)) <= 2 * max(fewest, halves)


def test_rows_fill_up() -> None:
    assert [sorted(row) for row in pack([5, 7, 3, 5, 10], 10)] == [[4], [1, 2], [0, 3]]


def test_a_hundred_thousand_examples_are_packed_in_seconds() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 100_000).astype(int).clip(1, 4096)
    started = time.process_time()
    rows = pack(lengths, 4096)
    assert time.process_time() - started < 3
    assert lengths.sum() / (len(rows) * 4096) > 0.999
