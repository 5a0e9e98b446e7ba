from __future__ import annotations

import pickle
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.offsets import offsets_of
from workers.data.tokens.arrays import EncodedArrays
from workers.data.tokens.encoded import EncodedExample, EncodedSet, EncodedWriter, lengths_of


@st.composite
def encoded(draw: st.DrawFn) -> EncodedExample:
    ids = draw(st.lists(st.integers(0, 70_000), min_size=1, max_size=12))
    places = sorted(draw(st.sets(st.integers(0, len(ids)), max_size=6)))
    spans = tuple(zip(places[::2], places[1::2], strict=False))
    return EncodedExample(tuple(ids), spans, draw(st.floats(0, 1, width=32)))


SETS = st.lists(encoded(), max_size=8)


@given(SETS, st.none() | st.integers(1, 14))
def test_a_cut_set_is_its_cut_examples(examples: list[EncodedExample], limit: int | None) -> None:
    cut = EncodedSet.of(examples).cut(limit)
    each = [example.cut(limit) for example in examples]
    kept = [example for example in each if example.counted]
    assert list(cut.examples) == kept
    assert cut.dropped == len(examples) - len(kept)
    assert cut.truncated == sum(
        bool(after.counted) and len(before.input_ids) != len(after.input_ids)
        for before, after in zip(examples, each, strict=True)
    )
    assert cut.examples.lengths.tolist() == [len(example.input_ids) for example in kept]
    assert cut.examples.counted.tolist() == [example.counted for example in kept]
    assert cut.examples.counted_tokens == sum(example.counted for example in kept)


@given(SETS, st.integers(1, 14), st.data())
def test_views_of_views(examples: list[EncodedExample], limit: int, data: st.DataObject) -> None:
    whole = EncodedSet.of(examples)
    indices = data.draw(st.lists(st.integers(0, len(examples) - 1)) if examples else st.just([]))
    chosen = [examples[index] for index in indices]
    view = whole.select(indices)
    assert list(view) == chosen
    assert view.weights.tolist() == [example.weight for example in chosen]
    assert list(view[1::2]) == chosen[1::2]
    again = view.cut(limit).examples.cut(limit + 1).examples
    assert list(again) == [cut for one in chosen if (cut := one.cut(limit)).counted]
    assert list(EncodedSet(again.flattened())) == list(again)


@settings(deadline=None)
@given(SETS, st.integers(1, 14))
def test_a_saved_set_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, examples: list[EncodedExample], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    whole = EncodedSet.of(examples)
    whole.save(folder / "whole")
    assert list(EncodedSet.load(folder / "whole")) == examples
    view = whole.cut(limit).examples
    view.save(folder / "view")
    assert list(EncodedSet.load(folder / "view")) == list(view)


def test_batches_are_appended_in_order(tmp_path: Path) -> None:
    examples = [EncodedExample.completion_only(range(n), 1) for n in (2, 3, 5, 7)]
    writer = EncodedWriter(tmp_path, vocabulary=300)
    for part in (examples[:1], [], examples[1:]):
        writer.append(EncodedSet.of(part))
    with pytest.raises(ValueError, match="token 300 in a vocabulary of 300"):
        writer.append(EncodedSet.of([EncodedExample((300,), ())]))
    writer.close()
    loaded = EncodedSet.load(tmp_path)
    assert list(loaded) == examples
    assert loaded.vocabulary == 1 << 16
    assert (tmp_path / "tokens.npy").stat().st_size == 128 + 2 * 17


def test_small_vocabularies_take_two_bytes() -> None:
    example = EncodedExample((65_535,), ())
    assert EncodedSet.of([example], 65_536).flattened().tokens.itemsize == 2
    assert EncodedSet.of([example], 65_537).flattened().tokens.itemsize == 4


def test_the_first_token_never_counts() -> None:
    assert EncodedExample((1, 2, 3), ((0, 3),)).counted == 2
    assert EncodedExample((1, 2, 3), ((0, 1), (2, 3))).counted == 1
    assert EncodedExample.completion_only((1, 2, 3), 0).counted == 2


@given(SETS, st.none() | st.integers(1, 14), st.integers(1, 14))
def test_dropping_leaves_out_what_is_too_long(
    examples: list[EncodedExample], earlier: int | None, limit: int
) -> None:
    before = EncodedSet.of(examples).cut(earlier).examples
    cut = before.cut(limit, drop=True)
    assert list(cut.examples) == [one for one in before if one.length <= limit]
    assert (cut.truncated, cut.dropped) == (0, len(before) - len(cut.examples))
    assert cut.examples.lengths.max(initial=0) <= limit
    assert list(before.cut(None, drop=True).examples) == list(before)


def test_examples_are_values() -> None:
    example = EncodedExample((1, 2, 3), ((1, 3),), 0.5)
    stored = EncodedSet.of([example], 300)[0]
    assert stored.tokens.dtype == np.uint16
    assert stored == example == pickle.loads(pickle.dumps(stored))
    assert {stored, example} == {example}
    for other in (
        EncodedExample((1, 2, 4), ((1, 3),), 0.5),
        EncodedExample((1, 2, 3), ((2, 3),), 0.5),
        EncodedExample((1, 2, 3), ((1, 3),)),
        EncodedExample((1, 2), ((1, 3),), 0.5),
    ):
        assert other != example
    assert example != (1, 2, 3)
    assert (stored.input_ids, stored.length) == ((1, 2, 3), 3)
    with pytest.raises(FrozenInstanceError):
        example.weight = 1.0  # type: ignore[misc]


def test_a_cut_keeps_at_least_one_learned_token() -> None:
    example = EncodedExample.completion_only((1, 2, 3, 4), 3)
    assert list(EncodedSet.of([example]).cut(4).examples) == [example]
    assert EncodedSet.of([example]).cut(3).dropped == 1


def test_an_index_past_the_end_is_an_error() -> None:
    whole = EncodedSet.of([EncodedExample((1,), ())] * 2)
    assert whole[-1] == whole[1]
    with pytest.raises(IndexError):
        whole[2]
    assert lengths_of(whole).tolist() == lengths_of(list(whole)).tolist() == [1, 1]


def test_a_million_examples_are_cut_in_less_than_a_second() -> None:
    count = 1_000_000
    lengths = np.random.default_rng(0).integers(20, 30, count)
    ends = offsets_of(lengths)
    spans = np.stack([lengths // 2, lengths], axis=1).astype(np.int32)
    arrays = EncodedArrays(
        np.zeros(ends[-1], np.uint16),
        ends,
        spans,
        np.arange(count + 1),
        np.ones(count, np.float32),
    )
    started = time.process_time()
    cut = EncodedSet(arrays).cut(12)
    assert time.process_time() - started < 1
    assert (cut.truncated, cut.dropped) == (
        int((lengths // 2 < 12).sum()),
        int((lengths // 2 >= 12).sum()),
    )
