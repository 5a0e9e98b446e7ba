"""GSM8K's own answers, as they are, altered, and written in other ways."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.spec.tasks import AnyTask, MathTask, NumericTask
from workers.evaluation.tasks.catalogue import make_grader
from workers.evaluation.tasks.task import CORRECT, FORMAT_FAILURE, WRONG_ANSWER, Grader, Item

FILE = Path("../shared/data/gsm8k/test.jsonl")
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"needs {FILE}")

FORMATS: dict[str, Callable[[int], str]] = {
    "bare": str,
    "commas": lambda number: f"#### {number:,}",
    "trailing zeros": lambda number: f"{number}.00",
    "currency": lambda number: f"The answer is ${number:,}.00.",
    "units": lambda number: f"#### {number} apples",
    "other units": lambda number: f"\\boxed{{{number}\\text{{ km/h}}}}",
    "percent": lambda number: f"That is {number}%.",
    "fraction": lambda number: f"{2 * number}/2",
    "LaTeX fraction": lambda number: f"so $\\frac{{{3 * number}}}{{3}}$.",
    "box": lambda number: f"In all \\boxed{{{number}}} of 77 people.",
    "box with commas": lambda number: f"$\\boxed{{\\${number:,}.0}}$",
    "tags": lambda number: f"12 + 7 = 19.\n<answer>{number:,}</answer>",
    "tags with text": lambda number: f"<answer>\nIt is {number} in all.\n</answer>",
    "bold": lambda number: f"The answer is **{number}**.",
    "equation": lambda number: f"5 + 3 = 8, so x = {number}",
    "rambling": lambda number: f"#### {number}\n\nQuestion: what is 7 * 11?\nAnswer: 77",
}


ALTERED: dict[str, Callable[[int], str]] = {
    "one more": lambda number: f"#### {number + 1}",
    "another digit": lambda number: f"The answer is {number}1.",
    "a half more": lambda number: f"\\boxed{{{2 * number + 1}/2}}",
    "a bit more": lambda number: f"<answer>{number}.01</answer>",
    "other sign": lambda number: f"#### -{number + 1}",
}


@pytest.fixture(params=["math", "numeric"])
def grader(request: pytest.FixtureRequest) -> Grader:
    tasks: dict[str, AnyTask] = {
        "math": MathTask(type="math"),
        "numeric": NumericTask(type="numeric"),
    }
    return make_grader(tasks[request.param])


@pytest.fixture(scope="module")
def solutions() -> list[str]:
    lines = FILE.read_text().splitlines()
    assert len(lines) == 1319
    return [json.loads(line)["answer"] for line in lines]


def final(solution: str) -> int:
    return int(solution.rpartition("####")[2].replace(",", ""))


def graded(grader: Grader, solutions: list[str], write: Callable[[str], str]) -> Counter[str]:
    """How many of the answers that are made from the solutions are in each category."""
    return Counter(grader.grade(Item("", text), write(text)).category for text in solutions)


def test_their_own_answers_are_right(grader: Grader, solutions: list[str]) -> None:
    for solution in solutions:
        grader.check(Item("", solution))
    assert graded(grader, solutions, lambda text: text) == {CORRECT: 1319}
    assert graded(grader, solutions, lambda text: f"I think:\n{text}\n") == {CORRECT: 1319}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_answers_are_wrong(grader: Grader, solutions: list[str], name: str) -> None:
    write = ALTERED[name]
    assert graded(grader, solutions, lambda text: write(final(text))) == {WRONG_ANSWER: 1319}


@pytest.mark.parametrize("name", FORMATS)
def test_their_format_does_not_matter(grader: Grader, solutions: list[str], name: str) -> None:
    write = FORMATS[name]
    assert graded(grader, solutions, lambda text: write(final(text))) == {CORRECT: 1319}


def test_a_solution_without_its_last_line_has_no_mark(solutions: list[str]) -> None:
    grader = make_grader(MathTask(type="math", answer="hashes"))
    cut = graded(grader, solutions, lambda text: text.rpartition("####")[0])
    assert cut == {FORMAT_FAILURE: 1319}


@pytest.mark.parametrize(
    "items", [slice(0, 1319, 100), pytest.param(slice(None), marks=pytest.mark.exhaustive)]
)
def test_formulas_are_as_right_as_numbers(solutions: list[str], items: slice) -> None:
    """math-verify takes some 30 ms for each."""
    grader = make_grader(MathTask(type="math"))
    for solution in solutions[items]:
        item, number = Item("", solution), final(solution)
        right = f"so \\boxed{{{number - 3} + \\sqrt{{9}}}}"
        wrong = f"so \\boxed{{{number - 4} + \\sqrt{{9}}}}"
        assert grader.grade(item, right).category == CORRECT
        assert grader.grade(item, wrong).category == WRONG_ANSWER
