import json
import pickle
from pathlib import Path

import pytest

from hpo.spec.cleaning import Decontamination
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


def test_a_short_answer_contaminates_nothing() -> None:
    answer = "The sentiment of this review is clearly a positive one"
    found = index(Example.pair("What is 6 times 7?", "42"), Example.pair(QUESTION, answer))
    assert found.hits(["The answer is 42", answer]) == [None, None]


def test_a_short_prompt_is_compared_whole() -> None:
    found = index(Example.pair("What is six times seven?", "42"))
    texts = ["So what is six times seven, then?", "What is six times eight? Seven."]
    assert found.hits(texts) == [Hit(0, 1.0), None]


def test_a_short_prompt_that_stands_in_another_item_is_not_looked_for() -> None:
    found = index(
        Example.pair("Can you give me a hint?", "No."),
        Example.pair(f"{QUESTION} Can you give me a hint?", "No."),
    )
    assert found.hits(["Can you give me a hint?", QUESTION]) == [None, Hit(1, 1.0)]
    assert (found.items, found.not_compared) == (2, 1)


def test_prompts_of_few_words_are_not_looked_for() -> None:
    found = index(Example.pair("What is that?", "This."), Example.pair("", SOLUTION))
    assert (found.items, found.not_compared) == (2, 1)
    assert found.hits(["What is that? This.", SOLUTION]) == [None, Hit(1, 1.0)]


def test_the_item_with_the_largest_share_is_named() -> None:
    most = " ".join([*QUESTION.split()[:18], "but", "not", "this"])
    found = index(Example.pair(QUESTION, "2"), Example.pair(most, "1"), words=18, overlap=0.3)
    assert found.hits([QUESTION, most]) == [Hit(0, 1.0), Hit(1, 1.0)]


def test_equal_items_count_as_the_first() -> None:
    found = index(*[Example.pair(QUESTION, SOLUTION)] * 30)
    assert found.hits([QUESTION]) == [Hit(0, 1.0)]
    assert (found.items, found.not_compared) == (30, 0)


def some_words(kind: str, number: int, count: int) -> str:
    return " ".join(f"{kind}{number}x{place}" for place in range(count))


@pytest.mark.parametrize("count", [8, 200, 1000])
@pytest.mark.parametrize("length", [6, 12, 18, 40])
@pytest.mark.parametrize("own", [1, 5, 20])
def test_an_instruction_that_items_share_finds_nothing(count: int, length: int, own: int) -> None:
    instruction = some_words("instruction", 0, length)
    items = [
        Example.pair(f"{instruction} {some_words('item', number, own)} now", "1")
        for number in range(count)
    ]
    found = index(*items)
    assert found.not_compared == 0
    others = [f"{instruction} {some_words('other', number, own)} now" for number in range(20)]
    half = f"{instruction} {' '.join(items[3].prompt.split()[length:][: own // 2])} but not it"
    assert found.hits([*others, half]) == [None] * 21
    copies = [f"Before. {item.prompt} After." for item in items]
    assert found.hits(copies) == [Hit(number, 1.0) for number in range(count)]


def test_labels_as_completions_find_nothing() -> None:
    labels = [
        "The sentiment of this review is positive.",
        "The sentiment of this review is negative, as the reviewer would not see the film again.",
    ]
    items = [
        Example.pair(f"Review: {some_words('review', number, 25)}", labels[number % 2])
        for number in range(40)
    ]
    found = index(*items)
    others = [
        f"Review: {some_words('other', number, 25)}\n{labels[number % 2]}" for number in range(300)
    ]
    assert found.hits(others) == [None] * 300
    assert found.hits([items[5].prompt]) == [Hit(5, 1.0)]


def test_a_worked_solution_is_found_without_its_question() -> None:
    """As in GSM8K: a story, its solution, a final answer; phrases that many items share."""
    ending = "Give the number alone after four marks, and nothing else, on the last line."
    items = [
        Example.pair(
            f"{some_words('story', number, 30)} How many does she have left? {ending}",
            f"Let us think. {some_words('step', number, 25)} #### {number}",
        )
        for number in range(300)
    ]
    found = index(*items)
    texts = [
        f"{some_words('other', 1, 30)} {items[7].completion}",
        some_words("story", 9, 30),
        f"{some_words('other', 2, 30)} How many does she have left? {ending} Let us think. #### 7",
    ]
    assert found.hits(texts) == [Hit(7, 1.0), Hit(9, 1.0), None]


def test_headers_of_functions_are_no_items() -> None:
    """As in HumanEval: a header that many items share, a name, a docstring, a body."""
    header = "from typing import List, Dict, Tuple, Optional, Any\nimport math\nimport re\n\n\n"
    items = [
        Example.pair(
            f"{header}def name{number}(x: List[int]) -> int:\n    '{some_words('d', number, 9)}'",
            "    return sorted(x)[-1]",
        )
        for number in range(164)
    ]
    found = index(*items)
    assert found.not_compared == 0
    other = f"{header}def name(x: List[int]) -> int:\n    'Another.'\n    return sorted(x)[-1]"
    assert found.hits([other, f"# A copy\n{items[3].prompt}\n    pass"]) == [None, Hit(3, 1.0)]


def test_several_answers_to_one_prompt_are_one_item() -> None:
    """As in CIMA: dialogues that begin alike, several responses to each."""
    opening = "Please try to fill in the blank in Italian."
    dialogues = [f"{opening}\n\n{some_words('turn', number, 12)}" for number in range(2)]
    items = [
        Example.pair(dialogue, f"response {number}")
        for dialogue in dialogues
        for number in range(4)
    ]
    found = index(*items)
    assert found.not_compared == 0
    assert found.hits([*dialogues, f"{opening} {some_words('other', 0, 9)}"]) == [
        Hit(0, 1.0),
        Hit(4, 1.0),
        None,
    ]


@pytest.mark.parametrize("count", [2, 3, 40])
def test_a_prompt_that_most_items_have_is_an_instruction(count: int) -> None:
    items = [Example.pair(QUESTION, some_words("poem", number, 20)) for number in range(count)]
    found = index(*items)
    assert found.hits([QUESTION, f"{QUESTION} {items[1].completion}"]) == [None, Hit(1, 1.0)]


@pytest.mark.parametrize(("count", "is_own"), [(8, False), (200, True), (1000, True)])
def test_a_story_belongs_to_its_items_where_they_are_few(count: int, is_own: bool) -> None:
    story = some_words("story", 0, 60)
    questions = [some_words("question", number, 14) for number in range(4)]
    items = [
        *[Example.pair(f"{story} {question}", "1") for question in questions],
        *[Example.pair(some_words("rest", number, 60), "1") for number in range(count - 4)],
    ]
    found = index(*items)
    assert found.not_compared == 0
    [other] = found.hits([f"{story} {some_words('other', 0, 14)}"])
    assert (other is not None) is is_own
    assert found.hits([item.prompt for item in items[:4]]) == [Hit(i, 1.0) for i in range(4)]


def test_without_items_there_are_no_hits() -> None:
    assert index().hits(["text"]) == [None]
    assert (index().items, index().not_compared) == (0, 0)
    assert index(Example.pair("a", "b")).hits([QUESTION]) == [None]
    assert index(Example.pair(QUESTION, "b")).hits([]) == []


def test_an_index_can_be_sent_to_another_process() -> None:
    found = pickle.loads(pickle.dumps(index(Example.pair(QUESTION, "42"))))
    assert found.hits([QUESTION]) == [Hit(0, 1.0)]


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_hits_do_not_depend_on_the_chunk(cut: int) -> None:
    found = index(Example.pair(QUESTION, SOLUTION))
    texts = [QUESTION, "nothing", SOLUTION]
    assert found.hits(texts[:cut]) + found.hits(texts[cut:]) == found.hits(texts)


DATA = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"


@pytest.mark.skipif(not DATA.exists(), reason="GSM8K is not here")
def test_copies_of_gsm8k_are_found_and_little_else() -> None:
    train, test = (
        [
            Example.pair(row["question"], row["answer"])
            for row in map(json.loads, (DATA / f"{name}.jsonl").read_text().splitlines())
        ]
        for name in ("train", "test")
    )
    found = index(*test)
    assert (found.items, found.not_compared) == (1319, 0)
    around = [f"{example.prompt}\n{example.completion}" for example in train]
    planted = [f"{around[n]}\n{item.prompt}\n{around[-n]}" for n, item in enumerate(test)]
    assert [hit and hit.item for hit in found.hits(planted)] == list(range(1319))
    assert sum(hit is not None for hit in found.hits(around)) == 2
