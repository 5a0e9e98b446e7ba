"""Mathematical answers. What is compared by math-verify takes some 30 ms each."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from hpo.spec.tasks import MathTask
from workers.evaluation.tasks.math import MathGrader, is_same, reference_answer
from workers.evaluation.tasks.task import CORRECT, FORMAT_FAILURE, WRONG_ANSWER, Item

GRADER = MathGrader(MathTask(type="math"))


def category(answer: str, reference: str, task: MathTask | None = None) -> str:
    grader = GRADER if task is None else MathGrader(task)
    grade = grader.grade(Item("", reference), answer)
    assert grade.score == float(grade.category == CORRECT)
    assert (grade.extracted is None) == (grade.category == FORMAT_FAILURE)
    return grade.category


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The answer is 42.", "42"),
        ("The answer is $1,234.50", "#### 1234.5"),
        ("It costs $5 and then $10.", "10"),
        ("**18**", "18"),
        ("The answer is **18**.", "18"),
        ("\\(18\\)", "18"),
        ("18.00", "18"),
        ("018", "18"),
        ("36/2", "18"),
        ("$\\$18$", "18"),
        ("18 \u20ac", "18"),
        ("12 apples", "12"),
        ("\\boxed{12 \\text{ dinosaurs}}", "12"),
        ("<answer>There are 12 dinosaurs.</answer>", "12"),
        ("#### 18\n\nQuestion: how many are 3?", "#### 18"),
        ("\\boxed{18} apples for 3 people", "18"),
        ("cut off in \\boxed{18", "18"),
        ("#### 18\n\nQuestion: 3?\n####", "#### 18"),
        ("### 18", "#### 18"),
        ("= 18", "18"),
        ("18,", "18"),
        ("\\frac{1}{2}", "0.5"),
        ("\\frac12", "1/2"),
        ("0.5", "\\frac{1}{2}"),
        ("It is 1 1/2 cups.", "1.5"),
        ("1\\frac{1}{2}", "\\frac{3}{2}"),
        ("0.333333", "1/3"),
        ("50%", "50"),
        ("50%", "0.5"),
        ("33.5 percent", "33.5"),
        ("0.335", "33.5\\%"),
        ("$2 million", "2,000,000"),
        ("1.5 \\times 10^{3}", "1500"),
        ("\u22127", "-7"),
        ("90^\\circ", "90 degrees"),
        ("Tuesday", "\\text{tuesday}"),
        ("\\boxed{\\text{Tuesday}}", "Tuesday"),
        ("<answer>5 apples and 3 pears</answer>", "\\boxed{5 apples and 3 pears}"),
        ("9" * 1000, "9" * 1000),
    ],
)
def test_right_without_math_verify(answer: str, reference: str) -> None:
    assert category(answer, reference) == CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("so \\boxed{\\frac{2}{\\sqrt{8}}}", "\\frac{\\sqrt{2}}{2}"),
        ("The answer is $\\frac{\\sqrt{8}}{2}$.", "\\sqrt{2}"),
        ("\\boxed{(1, 2)}", "(1,2)"),
        ("\\boxed{x^2 + 2x + 1}", "(x+1)^2"),
        ("\\boxed{\\{1, 2\\}}", "\\{2, 1\\}"),
        ("2 * 6 = 12", "2 times 6 is 12\n#### 12"),
        ("\\[ x = 18 \\]", "18"),
        ("18", "x = 18"),
        ("\\boxed{x = 5 or x = 7}", "x=7 \\text{ or } x=5"),
        ("\u221a8", "2\\sqrt{2}"),
        ("2\u03c0", "2\\pi"),
        ("2^{10}", "1024"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("5 m", "5m"),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
            "\\begin{pmatrix} 2/2 \\\\ 2 \\end{pmatrix}",
        ),
    ],
)
def test_right_by_math_verify(answer: str, reference: str) -> None:
    assert category(answer, reference) == CORRECT


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("\\boxed{7}", "8"),
        ("18 apples for 3 people", "18"),
        ("0.33", "1/3"),
        ("5%", "6"),
        ("0.0000003", "0.0000001"),
        ("99999999999999999999", "99999999999999999998"),
        ("1234567.80", "1234567.50"),
        ("9" * 1000, "9"),
        ("\\boxed{listen}", "silent"),
        ("It is Tuesday", "Tuesday"),
        ("\\boxed{y = 5}", "x = 5"),
        ("(0, 1]", "[0, 1)"),
        ("\\sqrt{2}", "\\sqrt{3}"),
        ("\\boxed{\\frac{1}{0}", "8"),
        ("first \\boxed{8}, no, \\boxed{9}", "8"),
        ("\\boxed{^}", "8"),
    ],
)
def test_wrong(answer: str, reference: str) -> None:
    assert category(answer, reference) == WRONG_ANSWER


@pytest.mark.parametrize("answer", ["", " \n", "no idea", "\\boxed{}", "<answer>", "####", "$"])
def test_nothing_to_compare(answer: str) -> None:
    assert category(answer, "8") == FORMAT_FAILURE


ANSWER = "#### 1\nso \\boxed{2} and <answer>3</answer> and 4"


@pytest.mark.parametrize(
    ("task", "right"),
    [
        (MathTask(type="math", answer="hashes"), "1"),
        (MathTask(type="math", answer="boxed"), "2"),
        (MathTask(type="math", answer="tag"), "3"),
        (MathTask(type="math", answer="any"), "3"),
        (MathTask(type="math", answer="last"), "4"),
    ],
)
def test_where_the_answer_must_stand(task: MathTask, right: str) -> None:
    verdicts = {number: category(ANSWER, number, task) for number in "1234"}
    assert [number for number, verdict in verdicts.items() if verdict == CORRECT] == [right]
    if task.answer not in ("any", "last"):
        grade = MathGrader(task).grade(Item("", "4"), "4")
        assert grade.category == FORMAT_FAILURE
        assert "no answer marked by" in grade.detail


@pytest.mark.parametrize("reference", ["", " ", "\\boxed{^}", "#%!"])
def test_references_that_nothing_can_be_compared_with(reference: str) -> None:
    with pytest.raises(InputError, match="no final answer that can be read; allowed"):
        GRADER.check(Item("", reference))


@pytest.mark.parametrize("reference", ["5", "so 5 apples", "#### 5", "(x+1)^2", "Tuesday"])
def test_references_that_will_do(reference: str, caplog: pytest.LogCaptureFixture) -> None:
    GRADER.check(Item("", reference))
    assert caplog.records == []
    assert logging.getLogger("math_verify").level == logging.NOTSET


@given(st.sampled_from(["5", "3/4", "1.5", "12 apples", "50%", "Tuesday"]), st.text())
def test_text_before_a_marked_answer_changes_nothing(final: str, text: str) -> None:
    for marked in (f"#### {final}", f"\\boxed{{{final}}}", f"<answer>{final}</answer>"):
        assert category(f"{text}\n{marked}", final) == CORRECT


@given(st.text(alphabet="0123456789$. abcxyz,\n") | st.text())
def test_any_answer_has_a_grade_and_always_the_same(text: str) -> None:
    # Against words nothing is left to math-verify.
    assert category(text, "Tuesday") == category(text, "Tuesday")


def test_the_reference_s_answer() -> None:
    assert reference_answer("2 + 3 = 5\n#### 5") == "5"
    assert reference_answer("It is $\\frac{1}{2}$, I think.") == "\\frac{1}{2}"
    assert reference_answer("x^2 + 1") == "x^2 + 1"
    assert reference_answer("Tuesday") == "Tuesday"


@pytest.mark.exhaustive
def test_the_quick_verdicts_are_math_verify_s() -> None:
    from math_verify import parse, verify

    numbers = ["5", "5.0", "1,000", "1000", "3/4", "0.75", "\\frac{3}{4}", "0.333333", "1/3", "-7"]
    for one in numbers:
        for other in numbers:
            gold, given = (parse(f"\\boxed{{{text}}}") for text in (one, other))
            assert is_same(one, other) == verify(gold, given), (one, other)


def test_neither_torch_nor_vllm_is_needed() -> None:
    code = (
        "import sys; from workers.evaluation.tasks.math import is_same;"
        "assert is_same('x + 1', '1 + x');"
        "sys.exit(bool({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
