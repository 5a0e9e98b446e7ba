from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import Batch
from workers.data.batches.feeder import Feeder
from workers.data.tokens.encoded import EncodedExample

CPU = torch.device("cpu")
PAD = 9
LENGTHS = (5, 3, 8, 2, 6)
EXAMPLES = [EncodedExample.completion_only(range(100, 100 + n), 1) for n in LENGTHS]


def feeder(**more: Any) -> Feeder:
    given: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}, "max_batches": 1}
    given |= {"effective_batch_size": len(EXAMPLES), "max_length": 10}
    return Feeder(TrainingConfig.model_validate(given | more), pad_id=PAD, device=CPU)


def fed(made: Feeder, micro_batch: int, examples: list[EncodedExample]) -> list[Batch]:
    return list(made.batches(examples, made.rows(examples), micro_batch))


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_long_rows_come_first() -> None:
    assert feeder().rows(EXAMPLES) == [[2], [4], [0], [1], [3]]
    packed = feeder(packing=True).rows(EXAMPLES)
    assert [sum(LENGTHS[index] for index in row) for row in packed] == [10, 9, 5]
    assert sorted(index for row in packed for index in row) == [0, 1, 2, 3, 4]


def test_rows_make_batches_of_at_most_so_many() -> None:
    batches = fed(feeder(), 2, EXAMPLES)
    # What is left over is the longest row, which so pads no other.
    assert [batch.members for batch in batches] == [(2,), (4, 0), (1, 3)]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(1, 8), (2, 6), (2, 3)]
    for batch in batches:
        assert batch.examples == tuple(EXAMPLES[member] for member in batch.members)
        assert batch.position_ids is None


def test_packed_rows_make_batches() -> None:
    first, second = fed(feeder(packing=True), 2, EXAMPLES)
    assert first.attention_mask is None
    assert first.position_ids is not None
    assert tuple(first.input_ids.shape) == (2, 10)
    assert tuple(second.input_ids.shape) == (1, 5)
    assert sorted(first.members + second.members) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("packing", [False, True])
def test_padding_to_the_largest_length(packing: bool) -> None:
    batches = fed(feeder(padding="max-length", packing=packing), 2, EXAMPLES)
    assert {batch.input_ids.shape[1] for batch in batches} == {10}


def test_flash_attention_gets_packed_examples_in_one_row() -> None:
    """With several rows transformers takes no notice of the positions there."""
    compute = {"attention": "flash_attention_2", "precision": "bf16"}
    (batch,) = fed(feeder(packing=True, compute=compute), 3, EXAMPLES)
    assert tuple(batch.input_ids.shape) == (1, sum(LENGTHS))
    assert batch.members == (2, 3, 4, 1, 0)
    assert batch.position_ids is not None
    wanted = [place for member in batch.members for place in range(LENGTHS[member])]
    assert batch.position_ids[0].tolist() == wanted
    wide = feeder(packing=True, padding="max-length", compute=compute)
    assert [tuple(batch.input_ids.shape) for batch in fed(wide, 2, EXAMPLES)] == [(1, 20), (1, 10)]


def same(one: Batch, other: Batch) -> bool:
    tensors = ("input_ids", "attention_mask", "labels", "weights", "documents", "position_ids")
    pairs = [(getattr(one, name), getattr(other, name)) for name in tensors]
    return (one.members, one.examples, one.counted, one.weighted) == (
        other.members,
        other.examples,
        other.counted,
        other.weighted,
    ) and all(a is b is None or torch.equal(a, b) for a, b in pairs)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 4),
    st.booleans(),
)
def test_threads_change_nothing(
    lengths: list[int], micro_batch: int, workers: int, packing: bool
) -> None:
    examples = [EncodedExample.completion_only(range(n), 0) for n in lengths]
    compute = {"loader_workers": workers, "pin_memory": True}
    here = fed(feeder(packing=packing), micro_batch, examples)
    ahead = fed(feeder(packing=packing, compute=compute), micro_batch, examples)
    assert len(here) == len(ahead)
    assert all(same(one, other) for one, other in zip(here, ahead, strict=True))
    assert sorted(member for batch in here for member in batch.members) == list(range(len(lengths)))
    assert not loaders()


class Counting(list[EncodedExample]):
    """Counts how many examples were asked for; the one of no tokens cannot be had."""

    taken = 0

    def __getitem__(self, index: Any) -> Any:
        self.taken += 1
        example = super().__getitem__(index)
        if not example.length:
            raise LookupError("no such example")
        return example


def ahead(examples: list[EncodedExample], workers: int = 2) -> Iterator[Batch]:
    rows = [[index] for index in range(len(examples))]
    return feeder(compute={"loader_workers": workers}).batches(examples, rows, 1)


def test_workers_stay_so_many_batches_ahead() -> None:
    examples = Counting(EXAMPLES * 4)
    batches = ahead(examples)
    next(batches)
    deadline = time.monotonic() + 5
    while examples.taken < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert examples.taken == 3
    assert 1 <= len(loaders()) <= 2
    batches.close()  # type: ignore[attr-defined]
    assert not loaders()


def test_an_abandoned_iterator_leaves_no_thread() -> None:
    batches = ahead(EXAMPLES * 4)
    next(batches)
    assert loaders()
    del batches
    assert not loaders()


def test_an_error_comes_in_its_turn() -> None:
    examples = Counting([*EXAMPLES[:3], EncodedExample((), ()), *EXAMPLES[3:]])
    batches = ahead(examples)
    assert [next(batches).members for _ in range(3)] == [(0,), (1,), (2,)]
    with pytest.raises(LookupError, match="no such example"):
        next(batches)
    assert not loaders()


def test_one_batch_needs_no_thread() -> None:
    batches = feeder(compute={"loader_workers": 3}).batches(EXAMPLES, [[0], [1]], 2)
    assert next(batches).members == (0, 1)
    assert not loaders()


def test_a_batch_takes_well_under_a_millisecond() -> None:
    examples = [EncodedExample.completion_only(range(512), 200) for _ in range(16)]
    made = feeder(max_length=512)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        fed(made, 16, examples)
        best = min(best, time.perf_counter() - started)
    assert best < 1e-3
