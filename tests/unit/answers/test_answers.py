import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers.marks import final_answer
from workers.answers.numbers import as_number, last_number
from workers.answers.same import same_answer


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("2 + 3 = 5.\n#### 5", "2 + 3 = 5.", "5"),
        ("2 + 3 = 5. #### 5\n\n", "2 + 3 = 5.", "5"),
        ("So it is $\\boxed{\\frac{1}{2}}$.", "So it is", "\\frac{1}{2}"),
        ("So \\[\\boxed{\\{1, 2\\}}\\]", "So", "\\{1, 2\\}"),
        ("Nested: \\boxed{\\boxed{3}}", "Nested:", "3"),
        ("First \\boxed{1}, then \\boxed{2}.", "First \\boxed{1}, then", "2"),
        ("Open \\boxed{ and closed \\boxed{3}", "Open \\boxed{ and closed", "3"),
        ("Steps.\n<answer>\n7\n</answer>", "Steps.", "7"),
        ("<answer>1</answer> no, <answer>2</answer>", "<answer>1</answer> no,", "2"),
        ("<answer>\\boxed{5}</answer>", "", "5"),
        ("\\boxed{4}\n#### \\boxed{5}", "\\boxed{4}", "5"),
        ("#### 1\n\\boxed{2} <answer>3</answer>", "#### 1\n\\boxed{2}", "3"),
    ],
)
def test_the_last_marked_answer_is_the_final_one(text: str, reasoning: str, answer: str) -> None:
    assert final_answer(text) == (reasoning, answer)


@pytest.mark.parametrize(
    "text",
    ["", "It is 5.", "#### Step 1\nAdd them.", "##### 5", "####", "<answer></answer>", "\\boxed{5"],
)
def test_a_text_without_a_marked_answer_has_none(text: str) -> None:
    assert final_answer(text) is None


PIECES = st.sampled_from(
    ["####", "\\boxed{", "{", "}", "\\{", "\\", "<answer>", "</answer>", "\n", " ", "$", "4", "x"]
)


@given(st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_any_text_has_an_answer_out_of_itself_or_none(text: str) -> None:
    found = final_answer(text)
    if found is not None:
        reasoning, answer = found
        assert text.startswith(reasoning)
        assert answer
        assert answer in text


def test_many_opened_marks_take_no_long_time() -> None:
    assert final_answer("\\boxed{" * 200_000 + "<answer>" * 200_000 + "#### " * 200_000) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("$1,234.50", 1234.5),
        ("-5.", -5),
        ("50 %", 50),
        ("\\$3", 3),
        ("3/4", 0.75),
        ("-\\dfrac{3}{4}", -0.75),
        ("\u22122", -2),
        ("1e3", 1000),
        ("1e999", None),
        ("1/0", None),
        ("12,34", None),
        ("five", None),
        ("", None),
    ],
)
def test_numbers_are_read_as_they_are_written(text: str, value: float | None) -> None:
    assert as_number(text) == value


@given(st.text(alphabet="0123456789.,/-+e$%\\frac{} x", max_size=20))
def test_reading_a_number_never_fails(text: str) -> None:
    as_number(text)
    last_number(text)
    assert same_answer(text, text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("72", " $72.00 ", True),
        ("0.3333333", "1/3", True),
        ("0.33", "1/3", False),
        ("1234567890", "1234567891", False),
        ("Paris", "paris", True),
        ("(1, 2)", "(1,2)", True),
        ("Paris", "Rome", False),
        ("72", "Paris", False),
    ],
)
def test_answers_are_compared_as_texts_and_as_numbers(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 of them, so $1,250.50, in all.", "$1,250.50"),
        ("10-3", "3"),
        ("it is -3", "-3"),
        ("none", None),
    ],
)
def test_the_last_number_is_given_as_it_is_written(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (found and found.text) == number
