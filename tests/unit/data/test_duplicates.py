import itertools
import random

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpo.spec.cleaning import NearDuplicates
from workers.data.cleaning import similar
from workers.data.cleaning.duplicates import (
    exact_hash,
    first_of_equals,
    identity_hash,
    near_duplicates,
    signatures,
)
from workers.data.cleaning.words import WordMemo, ngrams, word_hashes
from workers.data.example import Example, Turn

SPEC = NearDuplicates(threshold=0.7, words=2, permutations=128)


def text_of(*turns: tuple[str, str]) -> Example:
    return Example(tuple(Turn(role, content) for role, content in turns))  # type: ignore[arg-type]


def test_case_space_and_form_do_not_change_the_hash() -> None:
    one = Example.pair("What is  Caf\u00e9?", "It is 5.\n", where="a:1", labels={"a": "b"})
    assert len(exact_hash(one)) == 16
    assert exact_hash(one) == exact_hash(Example.pair("what IS cafe\u0301?", " It is\t5."))


def test_texts_roles_and_their_bounds_change_the_hash() -> None:
    examples = [
        Example.pair("a", "b"),
        Example.pair("a", "c"),
        Example.pair("a b", ""),
        text_of(("system", "a"), ("assistant", "b")),
        text_of(("user", "a"), ("user", "b")),
        text_of(("assistant", "a b")),
        Example.pair("a", "\ud800"),
    ]
    assert len({exact_hash(example) for example in examples}) == len(examples)


def test_identity_is_that_of_the_prompt_or_of_all() -> None:
    one, other = Example.pair("a", "b"), Example.pair("A ", "c")
    assert identity_hash(one, "prompt") == identity_hash(other, "prompt")
    assert identity_hash(one, "example") != identity_hash(other, "example")
    led = Example((Turn("system", "s"), *one.turns))
    assert identity_hash(led, "prompt") == identity_hash(one, "prompt")
    assert identity_hash(led, "example") != identity_hash(one, "example")


def test_a_plain_text_is_its_own_prompt() -> None:
    one, other = text_of(("assistant", "a")), text_of(("assistant", "b"))
    assert identity_hash(one, "prompt") != identity_hash(other, "prompt")
    assert identity_hash(one, "prompt") == exact_hash(one)


@given(st.lists(st.integers(0, 5)))
def test_the_first_of_equals_is_found(values: list[int]) -> None:
    first = [values.index(value) for value in values]
    expected = [-1 if place == row else place for row, place in enumerate(first)]
    whole = np.frombuffer(b"".join(bytes([value]) * 16 for value in values), "V16")
    assert first_of_equals(whole).tolist() == expected
    assert first_of_equals(np.array(values, np.uint64)).tolist() == expected
    second_half = np.zeros((len(values), 16), np.uint8)
    second_half[:, 15] = values
    assert first_of_equals(second_half).tolist() == expected


WORDS = st.lists(st.sampled_from("abcdefgh")).map(" ".join)


@given(st.lists(WORDS, max_size=8), st.integers(0, 8))
def test_a_signature_does_not_depend_on_the_chunk(texts: list[str], cut: int) -> None:
    memo = WordMemo()
    parts = [signatures(part, SPEC, memo) for part in (texts[:cut], texts[cut:])]
    assert np.array_equal(signatures(texts, SPEC), np.concatenate(parts))


def test_a_long_text_has_the_signature_of_all_its_pieces() -> None:
    numbers = [str(number) for number in range(10_000)]
    whole, *halves = signatures(
        [" ".join(numbers), " ".join(numbers[:5001]), " ".join(numbers[5000:])], SPEC
    )
    assert np.array_equal(whole, np.minimum(*halves))


def test_signatures_are_those_of_the_library() -> None:
    found = signatures(["one two three four"], SPEC)[0]
    grams = ngrams(word_hashes(["one two three four"]), 2).values
    theirs = MinHash(128, scheme="affine32", seed=1, hashfunc=lambda gram: int(gram) >> 32)
    theirs.update_batch(grams)
    assert np.array_equal(found, theirs.hashvalues)


def jaccards(texts: list[str]) -> list[list[float]]:
    """The true similarity of each text to those before it."""
    grams = [set(itertools.pairwise(text.split())) for text in texts]
    return [
        [len(one & other) / len(one | other) for other in grams[:row]]
        for row, one in enumerate(grams)
    ]


def first_similar(similarities: list[list[float]], threshold: float) -> list[int]:
    kept, found = list[int](), list[int]()
    for row, similar_to in enumerate(similarities):
        near = [other for other in kept if similar_to[other] >= threshold]
        found.append(near[0] if near else -1)
        if not near:
            kept.append(row)
    return found


def family(draw: random.Random, name: int) -> list[str]:
    """A text of 150 words of its own, and copies with two words changed or with half of them."""
    base = [f"w{name}x{place}" for place in range(150)]
    copies = [base]
    for number in range(4):
        copy = list(base)
        for place in draw.sample(range(150), 2 if number % 2 else 75):
            copy[place] = f"n{draw.random()}"
        copies.append(copy)
    return [" ".join(copy) for copy in copies]


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_the_true_similarity(seed: int) -> None:
    draw = random.Random(seed)
    texts = [text for name in range(25) for text in family(draw, name)]
    draw.shuffle(texts)
    similarities = jaccards(texts)
    assert not any(0.55 < value < 0.85 for values in similarities for value in values)
    found = near_duplicates(signatures(texts, SPEC), np.ones(len(texts), bool), SPEC)
    assert found.tolist() == first_similar(similarities, 0.7)


def one_by_one(rows: NDArray[np.uint32], candidates: list[bool], threshold: float) -> list[int]:
    """What near_duplicates promises, written plainly."""
    number, width = similar.bands(threshold, rows.shape[1])
    kept, found = list[int](), list[int]()
    for row, signature in enumerate(rows):
        agreed = [(other, rows[other] == signature) for other in kept]
        near = [
            other
            for other, places in agreed
            if places.mean() >= threshold
            and places[: number * width].reshape(number, width).all(axis=1).any()
        ]
        usable = candidates[row] and bool((signature != np.iinfo(np.uint32).max).any())
        found.append(near[0] if near and usable else -1)
        if usable and not near:
            kept.append(row)
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(1, 8),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_rows_are_decided_as_if_one_by_one(
    seed: int, length: int, values: int, threshold: float
) -> None:
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 4, (1 + length // 8, 16))
    copies = base[draw.integers(0, len(base), length)]
    noise = draw.random((length, 16)) < values / 20
    rows = np.where(noise, draw.integers(0, 4, copies.shape), copies).astype(np.uint32)
    rows[draw.random(length) < 0.1] = np.iinfo(np.uint32).max
    candidates = draw.random(length) < 0.9
    spec = NearDuplicates(threshold=threshold, permutations=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "BLOCK", 7)
        patch.setattr(similar, "_GATHERED", 5)
        found = near_duplicates(rows, candidates, spec)
    assert found.tolist() == one_by_one(rows, candidates.tolist(), threshold)


def test_texts_without_words_are_like_nothing() -> None:
    texts = ["", "?!", "", "one", "One."]
    found = near_duplicates(signatures(texts, SPEC), np.ones(5, bool), SPEC)
    assert found.tolist() == [-1, -1, -1, -1, 3]


def test_rows_that_are_no_candidates_take_no_part() -> None:
    texts = ["one two three"] * 3
    found = near_duplicates(signatures(texts, SPEC), np.array([False, True, True]), SPEC)
    assert found.tolist() == [-1, -1, 1]


def test_no_rows_have_no_duplicates() -> None:
    assert near_duplicates(signatures([], SPEC), np.zeros(0, bool), SPEC).tolist() == []


def test_many_rows_in_one_bucket_are_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counting(
        table: similar.Signatures, one: similar.Indices, other: similar.Indices, least: int
    ) -> NDArray[np.bool_]:
        compared.append(len(one))
        return alike(table, one, other, least)

    alike = similar.alike
    monkeypatch.setattr(similar, "alike", counting)
    spec = NearDuplicates(threshold=0.8, permutations=16)
    rows = np.random.default_rng(0).integers(0, 2**32, (4000, 16), np.uint32)
    rows[:, :4] = 7
    found = near_duplicates(rows, np.ones(len(rows), bool), spec)
    assert (found == -1).all()
    assert sum(compared) <= len(rows) * (similar.REPRESENTATIVES + similar.BLOCK / 2)


def test_a_hundred_thousand_copies_are_found_at_once() -> None:
    rows = np.tile(np.arange(16, dtype=np.uint32), (100_000, 1))
    found = near_duplicates(rows, np.ones(len(rows), bool), NearDuplicates(permutations=16))
    assert found[0] == -1
    assert (found[1:] == 0).all()


@pytest.mark.parametrize("permutations", [16, 128, 256])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.9])
def test_bands_find_most_pairs_from_the_threshold_on(threshold: float, permutations: int) -> None:
    number, width = similar.bands(threshold, permutations)
    assert number * width <= permutations
    above = (1 + threshold) / 2
    assert 1 - (1 - above**width) ** number > 0.9


def test_full_similarity_is_one_band() -> None:
    assert similar.bands(1.0, 64) == (1, 64)
