from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.data.batches.splitting import split_rows


def cost(lengths: list[int], ranges: list[tuple[int, int]], pass_tokens: int) -> int:
    return sum(pass_tokens + (end - start) * lengths[start] for start, end in ranges)


def cheapest(lengths: list[int], most: int, pass_tokens: int) -> int:
    """The least cost of all ways to split, each tried."""
    if not lengths:
        return 0
    return min(
        pass_tokens + n * lengths[0] + cheapest(lengths[n:], most, pass_tokens)
        for n in range(1, min(most, len(lengths)) + 1)
    )


def split(lengths: list[int], most: int, pass_tokens: int) -> list[tuple[int, int]]:
    return split_rows(np.array(lengths, np.int64), most, pass_tokens)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=9),
    st.integers(1, 10),
    st.integers(0, 100),
)
def test_no_other_split_is_cheaper(lengths: list[int], most: int, pass_tokens: int) -> None:
    lengths.sort(reverse=True)
    ranges = split(lengths, most, pass_tokens)
    assert [ranges[0][0], ranges[-1][1]] == [0, len(lengths)]
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    assert all(0 < end - start <= most for start, end in ranges)
    assert cost(lengths, ranges, pass_tokens) == cheapest(lengths, most, pass_tokens)


def test_uneven_rows_are_parted_where_a_pass_costs_less_than_their_padding() -> None:
    lengths = [500, 480, 100, 90, 80]
    assert split(lengths, 8, 256) == [(0, 2), (2, 5)]
    assert split(lengths, 8, 4096) == [(0, 5)]
    assert split(lengths, 2, 4096) == [(0, 2), (2, 4), (4, 5)]


def test_even_rows_fill_their_passes() -> None:
    assert split([10] * 6, 4, 256) == [(0, 4), (4, 6)]
    assert split([10] * 4, 4, 0) == [(0, 4)]


def test_many_rows_take_no_time() -> None:
    lengths = sorted(np.random.default_rng(0).integers(1, 2048, 512).tolist(), reverse=True)
    assert split(lengths, 64, 256)[-1][1] == 512
