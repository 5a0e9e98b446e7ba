"""Graded answers come back as they were packed, and within their room."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.search.graded import (
    StoredAnswers,
    StoredItem,
    StoredSample,
    answer_rows,
    bounded_lines,
    in_order,
    pack_answers,
    pack_set,
    row_line,
    unpack_answers,
    unpack_set,
)

PLENTY = 1 << 20
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
SAMPLES = st.builds(
    StoredSample,
    text=TEXTS,
    tokens=st.integers(0, 999),
    truncated=st.booleans(),
    category=st.sampled_from(["correct", "wrong_answer", "a category of one's own"]),
    score=st.floats(0, 1),
    extracted=st.none() | TEXTS,
    detail=TEXTS,
)


def sample(text: str, score: float = 1.0) -> StoredSample:
    category = "correct" if score == 1 else "wrong_answer"
    return StoredSample(text, len(text), False, category, score, text[-3:], "why")


def noise(length: int, seed: int) -> str:
    """A text that hardly can be compressed."""
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


def noisy_answers(lengths: list[int]) -> list[StoredAnswers]:
    return [
        StoredAnswers(index, (sample(noise(length, index)),))
        for index, length in enumerate(lengths)
    ]


@given(st.lists(st.lists(SAMPLES, max_size=3), max_size=5))
def test_answers_come_back(samples: list[list[StoredSample]]) -> None:
    answers = [StoredAnswers(index, tuple(some)) for index, some in enumerate(samples)]
    packed = pack_answers(answers, PLENTY)
    assert packed is not None
    assert unpack_answers(packed) == answers
    assert pack_answers(answers, PLENTY) == packed


@given(st.lists(st.builds(StoredItem, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2))))
def test_a_set_comes_back(items: list[StoredItem]) -> None:
    assert unpack_set(pack_set(items)) == items


def test_bytes_know_no_time() -> None:
    # Bytes 4 to 7 of gzip's header (RFC 1952).
    assert pack_set([StoredItem("1 + 1 =", "2")])[4:8] == bytes(4)


def test_the_longest_texts_are_left_out_and_no_grade() -> None:
    answers = noisy_answers([100, 4000, 200, 3000, 300])
    packed = pack_answers(answers, 2000)
    assert packed is not None
    assert len(packed) <= 2000
    back = unpack_answers(packed)
    assert [answer.omitted for answer in back] == [False, True, False, True, False]
    assert [answer.score for answer in back] == [1.0] * 5
    assert back[0] == answers[0]
    assert back[1].samples[0].text == ""
    assert back[1].samples[0].tokens == 4000


@given(st.lists(st.integers(0, 3000), max_size=30), st.integers(0, 20_000))
def test_it_fits_or_is_none(lengths: list[int], limit: int) -> None:
    answers = noisy_answers(lengths)
    packed = pack_answers(answers, limit)
    bare = pack_answers([answer.without_texts() for answer in answers], PLENTY)
    assert bare is not None
    if packed is None:
        assert len(bare) > limit
        return
    assert len(packed) <= limit
    back = unpack_answers(packed)
    assert [answer.item for answer in back] == list(range(len(answers)))
    left_out = [answer.length for answer, b in zip(answers, back, strict=True) if b.omitted]
    there = [answer.length for answer in back if not answer.omitted]
    assert not left_out or not there or max(there) <= min(left_out)


def test_little_room_is_used() -> None:
    answers = noisy_answers([500] * 200)
    packed = pack_answers(answers, 40_000)
    assert packed is not None
    assert len(packed) > 0.8 * 40_000


def test_what_is_no_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="no stored answers"):
        unpack_answers(b"not gzip")
    with pytest.raises(ValueError, match="no stored answers"):
        unpack_answers(pack_set([StoredItem("a", "b")])[:-9])
    with pytest.raises(ValueError, match="no stored answers"):
        unpack_answers(zlib.compress(b"{}"))


def test_rows_are_flat() -> None:
    items = [StoredItem("1 + 1 =", "2", {"level": "easy"}), StoredItem("2 + 2 =", "4")]
    answers = [
        StoredAnswers(0, (sample("2"), sample("3", 0.0))),
        StoredAnswers(1, (sample("4"),)).without_texts(),
    ]
    rows = [json.loads(row_line(row)) for row in answer_rows(items, answers)]
    assert [(row["item"], row["sample"], row["score"]) for row in rows] == [
        (0, 0, 1.0),
        (0, 1, 0.0),
        (1, 0, 1.0),
    ]
    assert rows[0]["labels"] == {"level": "easy"}
    assert [row.get("answer") for row in rows] == ["2", "3", None]
    assert rows[2]["prompt"] == "2 + 2 ="


def test_lines_beyond_the_room_lose_their_texts_then_themselves() -> None:
    items = [StoredItem("p" * 100, "r")] * 3
    answers = [StoredAnswers(index, (sample("t" * 100),)) for index in range(3)]
    whole = bounded_lines(items, answers, PLENTY)
    assert [json.loads(line)["answer"] for line in whole] == ["t" * 100] * 3
    first = len(whole[0])
    lines = [json.loads(line) for line in bounded_lines(items, answers, first + 150)]
    assert [line["item"] for line in lines] == [0, 1]
    assert "answer" not in lines[1]
    assert "prompt" not in lines[1]
    assert lines[1]["category"] == "correct"
    assert bounded_lines(items, answers, 10) == []


def test_categories_have_an_order_for_people() -> None:
    given = ["not_asked", "crashed", "wrong_answer", "no_code", "correct", "not_gradable"]
    assert in_order(given) == [
        "correct",
        "wrong_answer",
        "crashed",
        "no_code",
        "not_gradable",
        "not_asked",
    ]
