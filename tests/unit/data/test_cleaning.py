import pickle

import pytest

from hpo.spec.cleaning import Cleaning
from workers.data.cleaning.cleaner import Cleaner, Dropped, token_limit
from workers.data.example import Example, Turn


def cleaned(example: Example, **steps: object) -> Example | Dropped:
    return Cleaner(Cleaning.model_validate(steps)).clean(example)


def test_a_good_example_passes_as_it_is() -> None:
    example = Example.pair("What is 2 + 3?", "It is 5.")
    steps = {"min_characters": 3, "max_characters": 99, "incomplete": True, "code_blocks": True}
    assert cleaned(example, **steps) is example


@pytest.mark.parametrize(
    ("example", "where"),
    [
        (Example.pair("a\ufffd", "b"), "prompt"),
        (Example.pair("a", "b\ufffd"), "completion"),
        (Example((Turn("system", "\ufffd"), Turn("assistant", "b"))), "system prompt"),
        (Example.pair("a", "b", shots=(("x", "\ufffd"),)), "examples"),
        (Example.pair("a", "b", fields={"hint": "\ufffd"}), "field hint"),
    ],
)
def test_broken_encodings_are_found_in_all_texts(example: Example, where: str) -> None:
    assert cleaned(example, broken_encoding=False) is example
    found = cleaned(example)
    assert isinstance(found, Dropped)
    assert found.step == "broken_encoding"
    assert found.detail.endswith(f"of the {where}")


def test_each_text_has_a_least_length() -> None:
    short_prompt = Example.pair("Why?", "Because it is so.")
    assert cleaned(short_prompt, min_characters=4) is short_prompt
    assert cleaned(short_prompt, min_characters=5) == Dropped(
        "min_characters", "prompt of 4 characters"
    )
    short_completion = Example.pair("Why is it so?", "So.")
    assert cleaned(short_completion, min_characters=5) == Dropped(
        "min_characters", "completion of 3 characters"
    )


def test_a_plain_text_has_no_prompt_to_be_short() -> None:
    text = Example((Turn("assistant", "a long text"),))
    assert cleaned(text, min_characters=5) is text
    led = Example((Turn("system", "s"), *text.turns))
    assert cleaned(led, min_characters=5) is led


def test_the_longest_example_counts_all_turns() -> None:
    turns = (Turn("system", "12"), Turn("user", "345"), Turn("assistant", "6789"))
    assert cleaned(Example(turns), max_characters=9) == Example(turns)
    assert cleaned(Example(turns), max_characters=8) == Dropped(
        "max_characters", "9 characters together"
    )


@pytest.mark.parametrize("mark", ["...", "\u2026"])
def test_a_short_completion_with_an_ellipsis_is_incomplete(mark: str) -> None:
    example = Example.pair("Write it.", f"def f(): {mark}")
    assert cleaned(example) is example
    found = cleaned(example, incomplete=True)
    assert isinstance(found, Dropped)
    assert found.step == "incomplete"
    assert cleaned(example, incomplete=True, incomplete_characters=5) is example
    long = Example.pair("Write it.", "x" * 100 + mark)
    assert cleaned(long, incomplete=True) is long


def test_code_blocks_are_put_in_order_before_lengths_are_measured() -> None:
    example = Example.pair("Write it.", "~~~py\nx = 1", labels={"level": "A1"}, where="f:1")
    found = cleaned(example, code_blocks=True, max_characters=30)
    assert isinstance(found, Example)
    assert found.completion == "```python\nx = 1\n```"
    assert (found.labels, found.where) == ({"level": "A1"}, "f:1")
    assert isinstance(cleaned(example, code_blocks=True, max_characters=25), Dropped)


def test_a_block_that_the_answer_goes_on_with_is_left_open() -> None:
    example = Example.pair("Go on:\n```py\ndef f():", "    return 1\n```")
    assert cleaned(example, code_blocks=True) is example


def test_the_first_step_that_drops_is_named() -> None:
    example = Example.pair("\ufffd", "...")
    found = cleaned(example, min_characters=10, incomplete=True)
    assert isinstance(found, Dropped)
    assert found.step == "broken_encoding"
    found = cleaned(example, broken_encoding=False, min_characters=10, incomplete=True)
    assert isinstance(found, Dropped)
    assert found.step == "min_characters"


def _words(example: Example) -> int:
    return len(f"{example.prompt} {example.completion}".split())


def test_tokens_are_counted_last_where_they_can_be() -> None:
    spec = Cleaning(min_tokens=3, max_tokens=4)
    cleaner = Cleaner(spec, _words)
    assert cleaner.clean(Example.pair("a", "b")) == Dropped("min_tokens", "2 tokens")
    assert cleaner.clean(Example.pair("a b c", "d e")) == Dropped("max_tokens", "5 tokens")
    assert isinstance(cleaner.clean(Example.pair("a b", "c d")), Example)
    assert isinstance(Cleaner(spec).clean(Example.pair("a", "b")), Example)


def test_the_rule_for_tokens_stands_alone() -> None:
    assert token_limit(3, Cleaning(min_tokens=3, max_tokens=3)) is None
    assert token_limit(3, Cleaning()) is None


def test_a_cleaner_can_be_sent_to_another_process() -> None:
    cleaner = pickle.loads(pickle.dumps(Cleaner(Cleaning(min_characters=5), _words)))
    assert isinstance(cleaner.clean(Example.pair("a", "b")), Dropped)
