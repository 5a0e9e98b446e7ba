from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.generation.similar import SimilarTexts
from workers.generation.wording import plain, sequences, skeleton, words

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=12)


def jaccard(one: list[str], other: list[str], length: int) -> float:
    left, right = set(sequences(one, length)), set(sequences(other, length))
    return len(left & right) / len(left | right) if left | right else 0.0


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4), st.sampled_from([0.2, 0.5, 0.75, 0.8, 1.0]))
def test_nothing_similar_is_missed_and_nothing_else_found(
    texts: list[list[str]], length: int, similarity: float
) -> None:
    kept = SimilarTexts(length, similarity)
    for number, text in enumerate(texts):
        likeness = [jaccard(text, earlier, length) for earlier in texts[:number]]
        wanted = next(((i, j) for i, j in enumerate(likeness) if j >= similarity), None)
        assert kept.find(text) == wanted
        kept.add(text)


def test_sequences_of_words() -> None:
    assert list(sequences(["a", "b", "c"], 2)) == ["a b", "b c"]
    assert list(sequences(["a"], 2)) == ["a"]
    assert list(sequences([], 2)) == []


def test_words_are_compared_in_one_form() -> None:
    assert words("Perché NO?") == words("perche\u0301 no!")
    assert plain("?! ?") == "?!?"


def test_skeletons() -> None:
    assert skeleton("Marco Rossi has 3 cats, Anna has 1.5.") == "x has 0 cats, x has 0."
    assert skeleton('Say "il cane" or «la gatta» 2 times.') == "x or x 0 times."
    assert skeleton("l'albero è verde") == "l'albero è verde"
