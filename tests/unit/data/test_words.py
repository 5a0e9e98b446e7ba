import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.cleaning import words
from workers.data.cleaning.words import Ragged, WordMemo, ngrams, word_hashes

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d1", "\u00e9t\u00e9"])).map(" ".join))
BASE = 0x9E3779B97F4A7C15


def plain_ngrams(hashes: list[int], n: int) -> list[int]:
    size = min(n, len(hashes))
    found = []
    for start in range(len(hashes) - size + 1 if hashes else 0):
        value = 0
        for word in hashes[start : start + size]:
            value = (value * BASE + word) % (1 << 64)
        found.append(value)
    return found


@given(TEXTS, st.integers(1, 6))
def test_ngrams_are_those_of_a_plain_loop(texts: list[str], n: int) -> None:
    hashed = word_hashes(texts)
    found = ngrams(hashed, n)
    assert len(found) == len(texts)
    for row in range(len(texts)):
        assert found.row(row).tolist() == plain_ngrams(hashed.row(row).tolist(), n)


@given(TEXTS, st.integers(0, 5))
def test_a_row_does_not_depend_on_those_beside_it(texts: list[str], cut: int) -> None:
    whole = ngrams(word_hashes(texts), 3)
    parts = [ngrams(word_hashes(part), 3) for part in (texts[:cut], texts[cut:])]
    assert whole.values.tolist() == [value for part in parts for value in part.values.tolist()]


def test_words_are_runs_of_word_characters_without_case() -> None:
    hashed = word_hashes(["Hello, WORLD! caf\u00e9 x_1", "hello world cafe\u0301 X_1"])
    assert hashed.row(0).tolist() == hashed.row(1).tolist()
    assert hashed.lengths.tolist() == [4, 4]


def test_no_texts_and_no_words_give_no_hashes() -> None:
    assert len(word_hashes([])) == 0
    assert len(ngrams(word_hashes([]), 5)) == 0
    assert ngrams(word_hashes(["", "?!"]), 5).lengths.tolist() == [0, 0]


def test_the_order_of_words_counts() -> None:
    found = ngrams(word_hashes(["a b c", "c b a", "b a c"]), 3)
    assert len(set(found.values.tolist())) == 3


def test_a_full_memo_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MEMO_WORDS", 3)
    memo = WordMemo()
    texts = ["a b c d e f a b c"]
    assert np.array_equal(word_hashes(texts, memo).values, word_hashes(texts).values)
    assert len(memo) <= 3


def test_hashes_are_the_same_in_every_process() -> None:
    found = word_hashes(["one two"])
    assert found.values.tolist() == [14489617718373642804, 218224992319827701]


def test_rows_lie_between_offsets() -> None:
    ragged = Ragged(np.arange(3, dtype=np.uint64), np.array([0, 1, 1, 3]))
    assert [ragged.row(index).tolist() for index in range(3)] == [[0], [], [1, 2]]
    assert ragged.lengths.tolist() == [1, 0, 2]
