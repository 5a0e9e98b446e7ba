"""Passes over a set by length, and what becomes of them when memory runs out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from workers.data.batches.by_length import MemoryLimit, run_by_length
from workers.data.tokens.encoded import EncodedExample

Lengths = list[int]


def examples_of(lengths: Lengths) -> list[EncodedExample]:
    return [EncodedExample.completion_only(range(length), 1) for length in lengths]


class Device:
    """Takes passes of at most so many padded tokens."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def run(self, part: list[EncodedExample]) -> Lengths:
        tokens = len(part) * max(example.length for example in part)
        self.tried.append(tokens)
        if tokens > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return [example.length for example in part]


def passes(
    lengths: Lengths, tokens: int, most: int | None = None, room: int = 1 << 30
) -> tuple[list[tuple[list[int], Lengths]], Device, MemoryLimit]:
    device, limit = Device(room), MemoryLimit()
    done = run_by_length(device.run, examples_of(lengths), tokens, most=most, limit=limit)
    return list(done), device, limit


def test_a_pass_ends_where_its_padding_costs_another() -> None:
    done = run_by_length(
        Device(1 << 30).run,
        examples_of([30, 10, 11, 30, 10, 31]),
        1000,
        limit=MemoryLimit(),
        pass_tokens=20,
    )
    assert [lengths for _, lengths in done] == [[10, 10, 11], [30, 30, 31]]


def test_passes_keep_to_their_tokens() -> None:
    done, _, _ = passes([9, 2, 3, 8, 40, 5], 20)
    assert [part for _, part in done] == [[2, 3, 5], [8, 9], [40]]
    assert [indices for indices, _ in done] == [[1, 2, 5], [3, 0], [4]]


def test_passes_keep_to_their_number_of_examples() -> None:
    done, _, _ = passes([5] * 7, 1000, most=3)
    assert [len(part) for _, part in done] == [3, 3, 1]
    assert passes([], 10)[0] == []


def test_a_pass_without_room_is_repeated_in_halves() -> None:
    done, device, limit = passes([10] * 8, 80, room=35)
    assert device.tried == [80, 40, 20, 20, 20, 20]
    assert limit.tokens == 20
    assert sorted(index for indices, _ in done for index in indices) == list(range(8))


def test_only_the_pass_without_room_is_repeated() -> None:
    _, device, limit = passes([1] * 20 + [30] * 4, 60, room=40)
    assert device.tried == [20, 60, 30, 30, 30, 30]
    assert limit.tokens == 30


def test_a_size_that_fits_is_remembered() -> None:
    _, device, limit = passes([10] * 8, 80, room=35)
    device.tried.clear()
    list(run_by_length(device.run, examples_of([10] * 8), 80, limit=limit))
    assert device.tried == [20] * 4
    device.tried.clear()
    list(run_by_length(device.run, examples_of([10] * 8), 10, limit=limit))
    assert device.tried == [10] * 8


def test_an_example_without_room_alone_is_told() -> None:
    with pytest.raises(InputError, match=r"an example of 40 tokens has no room.*max_length"):
        passes([3, 3, 40], 80, room=35)


@given(
    st.lists(st.integers(1, 60), max_size=30),
    st.integers(1, 200),
    st.none() | st.integers(1, 8),
    st.integers(60, 200),
)
def test_every_example_has_its_pass_whatever_the_room(
    lengths: Lengths, tokens: int, most: int | None, room: int
) -> None:
    done, device, _ = passes(lengths, tokens, most, room)
    assert sorted(index for indices, _ in done for index in indices) == list(range(len(lengths)))
    for indices, part in done:
        assert [lengths[index] for index in indices] == part
        assert len(part) == 1 or len(part) * max(part) <= min(tokens, room)
        assert most is None or len(part) <= most
    assert all(tried <= max([tokens, *lengths]) for tried in device.tried)
