from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers.marks import Mark, final_answer, marked_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 5\n\nQuestion: and now?", "5"),
        ("#### $1,234 in all\nbecause", "$1,234 in all"),
        ("#### \\frac{1}{2}\nbecause", "\\frac{1}{2}"),
        ("#### 1 #### 2", "2"),
        ("#### Step 1\nAdd.", None),
        ("#### Step 1\nAdd.\n\\boxed{5}", "5"),
        ("#### 5\n\\boxed{6}", "6"),
        ("\\boxed{6}\n#### 5", "5"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("<answer>$\\boxed{7}$</answer>", "7"),
        ("#### <answer>7</answer>", "7"),
        ("<answer> </answer>", None),
        ("<answer>7", None),
        ("7", None),
        ("", None),
    ],
)
def test_any_mark(text: str, answer: str | None) -> None:
    assert marked_answer(text) == answer


TEXT = "#### 1\nso \\boxed{2} and <answer>3</answer> and 4"


@pytest.mark.parametrize(("mark", "answer"), [("hashes", "1"), ("boxed", "2"), ("tag", "3")])
def test_one_mark_is_asked_for(mark: Mark, answer: str) -> None:
    assert marked_answer(TEXT, mark) == answer
    assert marked_answer("It is 5.", mark) is None


def test_a_line_of_words_is_behind_hashes_where_they_are_asked_for() -> None:
    assert marked_answer("#### about five\nor so", "hashes") == "about five"


@given(st.text(), st.sampled_from(["#### 5", "\\boxed{5}", "<answer>5</answer>"]))
def test_text_before_a_marked_answer_changes_nothing(text: str, marked: str) -> None:
    assert marked_answer(f"{text}\n{marked}") == "5"


@given(st.text())
def test_what_ends_a_solution_is_found_in_an_answer_too(text: str) -> None:
    final = final_answer(text)
    if final is not None:
        assert marked_answer(text) == final[1]
