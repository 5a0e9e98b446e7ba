import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.data import Decontamination
from workers.data.cleaning import contamination
from workers.data.cleaning.contamination import Hit, ItemIndex
from workers.data.example import Example

QUESTION = " ".join(f"question{number}" for number in range(20))
SOLUTION = " ".join(f"solution{number}" for number in range(16))


def index(*items: Example, words: int = 13, overlap: float = 0.5) -> ItemIndex:
    return ItemIndex(items, Decontamination(words=words, overlap=overlap))


def test_a_text_that_holds_an_item_is_hit() -> None:
    found = index(Example.pair("other", "other"), Example.pair(QUESTION, SOLUTION))
    texts = [f"Before. {QUESTION.upper()}, and after.", SOLUTION, "something else", ""]
    assert found.hits(texts) == [Hit(1, 1.0), Hit(1, 1.0), None, None]


def test_the_share_of_the_sequences_decides() -> None:
    found = index(Example.pair(QUESTION, "42"))
    words = QUESTION.split()
    # Eight sequences of 13 words; sixteen words in a row hold four of them.
    assert found.hits([" ".join(words[:16]), " ".join(words[:15])]) == [Hit(0, 0.5), None]


def test_an_answer_of_a_few_words_contaminates_nothing() -> None:
    found = index(Example.pair("What is 6 times 7?", "The answer is 42"))
    assert found.hits(["The answer is 42", "42"]) == [None, None]


def test_a_short_part_is_compared_whole() -> None:
    found = index(Example.pair("What is six times seven?", "42"))
    texts = ["So what is six times seven, then?", "What is six times eight? Seven."]
    assert found.hits(texts) == [Hit(0, 1.0), None]


def test_parts_shorter_than_short_sequences_are_left_out() -> None:
    found = index(Example.pair("a b", "c d e"), words=3)
    assert found.hits(["a b", "c d e"]) == [None, Hit(0, 1.0)]


def test_the_item_with_the_largest_share_is_named() -> None:
    most = " ".join([*QUESTION.split()[:18], "but", "not", "this"])
    found = index(Example.pair(most, "1"), Example.pair(QUESTION, "2"), overlap=0.1)
    assert found.hits([QUESTION]) == [Hit(1, 1.0)]


def test_equal_items_count_as_the_first() -> None:
    found = index(*[Example.pair(QUESTION, SOLUTION)] * 30)
    assert found.hits([QUESTION]) == [Hit(0, 1.0)]


def test_an_instruction_that_many_items_share_is_no_item() -> None:
    items = [Example.pair(f"{QUESTION} item number {i} is here", "1") for i in range(20)]
    found = index(*items)
    assert found.hits([f"{QUESTION} something of its own"]) == [None]
    assert found.hits([items[7].prompt]) == [Hit(7, 1.0)]


def test_without_items_there_are_no_hits() -> None:
    assert index().hits(["text"]) == [None]
    assert index(Example.pair("a", "b")).hits([QUESTION]) == [None]
    assert index(Example.pair(QUESTION, "b")).hits([]) == []


def test_an_index_can_be_sent_to_another_process() -> None:
    found = pickle.loads(pickle.dumps(index(Example.pair(QUESTION, "42"))))
    assert found.hits([QUESTION]) == [Hit(0, 1.0)]


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


def plain_share(part: list[str], text: list[str], n: int) -> float:
    if len(part) < min(contamination.LEAST_WORDS, n):
        return 0.0
    size = min(n, len(part))
    grams, held = (
        {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
        for words in (part, text)
    )
    return len(grams & held) / len(grams)


@given(WORDS, WORDS, WORDS, st.integers(2, 7), st.sampled_from([0.3, 0.5, 1.0]))
def test_hits_are_those_of_plain_sets(
    prompt: list[str], completion: list[str], text: list[str], words: int, overlap: float
) -> None:
    item = Example.pair(" ".join(prompt), " ".join(completion))
    share = max(plain_share(part, text, words) for part in (prompt, completion))
    expected = Hit(0, share) if share >= overlap else None
    assert index(item, words=words, overlap=overlap).hits([" ".join(text)]) == [expected]


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_hits_do_not_depend_on_the_chunk(cut: int) -> None:
    found = index(Example.pair(QUESTION, SOLUTION))
    texts = [QUESTION, "nothing", SOLUTION]
    assert found.hits(texts[:cut]) + found.hits(texts[cut:]) == found.hits(texts)
