"""Exact, normalised and numeric answers, and choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from hpo.spec.tasks import (
    AnyTask,
    ChoiceTask,
    CodeTask,
    ExactTask,
    MathTask,
    NormalisedTask,
    NumericTask,
    ProgramTask,
    PythonTask,
    TextTask,
)
from workers.evaluation.tasks.catalogue import make_grader
from workers.evaluation.tasks.task import CORRECT, FORMAT_FAILURE, WRONG_ANSWER, Item

NORMALISED, NUMERIC = NormalisedTask(type="normalised"), NumericTask(type="numeric")
CHOICE = ChoiceTask(type="choice")


def category(task: AnyTask, answer: str, reference: str) -> str:
    grader, item = make_grader(task), Item("", reference)
    grader.check(item)
    grade = grader.grade(item, answer)
    assert grade.category in grader.categories
    assert grade.score == float(grade.category == CORRECT)
    return grade.category


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (" a b\n", CORRECT),
        ("a  b", WRONG_ANSWER),
        ("A b", WRONG_ANSWER),
        (" ", FORMAT_FAILURE),
    ],
)
def test_exact(answer: str, wanted: str) -> None:
    assert category(ExactTask(), answer, "a b ") == wanted


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Paris.", "paris", True),
        ("\u201cthe  Louvre\u201d", "The\nLouvre", True),
        ("\uff21\uff22", "ab", True),
        ("stra\u00dfe", "STRASSE", True),
        ("1,000 %", "1000", True),
        ("well-known", "wellknown", True),
        ("-5", "5", False),
        ("\u22125", "-5", True),
        ("1.5", "15", False),
        ("1/2", "12", False),
        ("10:30", "1030", False),
        ("a cat", "cat", False),
    ],
)
def test_normalised(answer: str, reference: str, right: bool) -> None:
    assert (category(NORMALISED, answer, reference) == CORRECT) is right


def test_what_is_ignored_can_be_chosen() -> None:
    def right(**options: bool) -> bool:
        task = NormalisedTask(type="normalised", **options)
        return category(task, "The cat!", "cat") == CORRECT

    assert not right()
    assert right(ignore_articles=True)
    assert not right(ignore_articles=True, ignore_punctuation=False)
    strict = NormalisedTask(type="normalised", ignore_case=False)
    assert category(strict, "CAT", "cat") == WRONG_ANSWER


def test_nothing_left_is_no_answer() -> None:
    assert category(NORMALISED, "...", "cat") == FORMAT_FAILURE
    with pytest.raises(InputError, match="reference '\\?!' is empty when normalised"):
        make_grader(NORMALISED).check(Item("", "?!"))


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("so it is 1,000.0", "#### 1000"),
        ("#### 12 apples\nfor 3", "2 * 6 = 12\n#### 12"),
        ("\\boxed{18} apples for 3", "18"),
        ("<answer>18</answer>, not 3", "18"),
        ("\\frac{36}{2}", "18"),
        ("36/2", "18"),
        ("18 m^2", "18"),
        ("$18.00", "18"),
        ("18%", "18"),
    ],
)
def test_right_number(answer: str, reference: str) -> None:
    assert category(NUMERIC, answer, reference) == CORRECT


def test_no_number_and_a_wrong_one() -> None:
    assert category(NUMERIC, "7", "8") == WRONG_ANSWER
    assert category(NUMERIC, "-8", "8") == WRONG_ANSWER
    for answer in ("", "no idea", "1/0", "9" * 5000, "1e999"):
        assert category(NUMERIC, answer, "8") == FORMAT_FAILURE
    assert category(NUMERIC, "#### 8\n\nQuestion: 7?\n####", "8") == CORRECT


@pytest.mark.parametrize(
    ("answer", "right"), [("9", True), ("11", True), ("8.9", False), ("11.01", False)]
)
def test_tolerance_is_relative_to_the_reference(answer: str, right: bool) -> None:
    task = NumericTask(type="numeric", tolerance=0.1)
    assert (category(task, answer, "10") == CORRECT) is right
    assert (category(task, f"-{answer}", "-10") == CORRECT) is right


def test_a_reference_needs_a_number() -> None:
    for reference in ("none", "", "1/0"):
        with pytest.raises(InputError, match="holds no number, which task numeric needs"):
            make_grader(NUMERIC).check(Item("", reference))


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        " b",
        "b) Paris",
        "(B)",
        "**B**",
        "B. Paris",
        "[B]",
        "$B$",
        "\\boxed{B}",
        "\\boxed{\\text{(B)}}",
        "A or B?\n<answer>B. Paris</answer>",
        "#### B",
        "The answer is B",
        "the answer is (b).",
        "**Answer:** B",
        "Answer\nB",
        "A is wrong. The correct answer is option B, as C and D are, too.",
        "The best choice is B",
        "Option (B) is correct",
        "B is right, since C and D are not.",
        "It cannot be A or C, so B.",
        "A dog is no bird, so I say B",
        "B is the correct answer. A is wrong.",
        "(B) is the correct choice. (A) is wrong.",
        "The answer is B. Option A is wrong, and so is option D.",
        "The answer is B because option A is too small.",
        "The best option is B; choice A comes second.",
        "Option B is correct. Option A is not.",
        "\u7b54\u6848\u662fB\u3002",
        "B\u662f\u6b63\u786e\u7684",
    ],
)
def test_the_chosen_letter(answer: str) -> None:
    assert category(CHOICE, answer, "B. Paris") == CORRECT
    assert category(CHOICE, answer, "(C) Rome") == WRONG_ANSWER


@pytest.mark.parametrize("answer", ["", "Paris", "E", "a dog", "DNA", "I think", "B's"])
def test_no_letter(answer: str) -> None:
    assert category(CHOICE, answer, "B") == FORMAT_FAILURE


def test_other_letters() -> None:
    task = ChoiceTask(type="choice", letters="ABCDE")
    assert category(task, "E", "e") == CORRECT
    task = ChoiceTask(type="choice", letters="XY")
    assert category(task, "The answer is Y.", "Y") == CORRECT


@given(st.text(alphabet="AB 5,.$\\{}#()<>answeriboxd\n") | st.text())
def test_any_answer_has_a_grade_and_always_the_same(answer: str) -> None:
    for task in (ExactTask(), NORMALISED, NUMERIC, CHOICE):
        assert category(task, answer, "B 5") == category(task, answer, "B 5")


@given(st.text(), st.sampled_from(["#### {}", "\\boxed{{{}}}", "<answer>{}</answer>"]))
def test_text_before_a_marked_answer_changes_nothing(text: str, mark: str) -> None:
    assert category(NUMERIC, f"{text}\n{mark.format(5)}", "5") == CORRECT
    assert category(CHOICE, f"{text}\n{mark.format('B')}", "B") == CORRECT


def test_own_and_sandboxed_graders_are_made_by_their_tasks(tmp_path: Path) -> None:
    assert make_grader(TextTask(type="text")).categories == ("scored", "empty")
    assert not make_grader(MathTask(type="math")).cheap
    (tmp_path / "own.py").write_text("def grade(**question): return True\n")
    own = make_grader(PythonTask(type="python", path=str(tmp_path / "own.py")))
    assert own.grade(Item("", ""), "").score == 1
    for task in (CodeTask(type="code"), ProgramTask(type="program")):
        with pytest.raises(ValueError, match=f"task {task.type} needs a sandbox"):
            make_grader(task)


@pytest.mark.parametrize("reference", ["", "Paris", "E", "A dog", "1"])
def test_a_reference_needs_a_letter(reference: str) -> None:
    with pytest.raises(InputError, match=r"begins with no letter .* one of A, B, C, D"):
        make_grader(CHOICE).check(Item("", reference))


@pytest.mark.parametrize(
    "task", [ExactTask(), NORMALISED, NUMERIC, CHOICE], ids=lambda task: task.type
)
@pytest.mark.parametrize(
    "piece",
    ["1 ", "$x \\[ \\boxed{ answer (", "e\u0301\u0316"],
    ids=["numbers", "openers", "marks"],
)
def test_cheap_graders_take_no_long_time(task: AnyTask, piece: str) -> None:
    grader = make_grader(task)
    assert grader.cheap
    answer = piece * (1_000_000 // len(piece))
    # Without hitting a quadratic path this takes a second; with one, an hour.
    assert grader.grade(Item("", "B 5"), answer).category in grader.categories


def test_long_runs_of_combining_marks_take_no_long_time() -> None:
    answer = "e" + "\u0301\u0316" * 250_000
    assert category(NORMALISED, answer, "e") == WRONG_ANSWER
