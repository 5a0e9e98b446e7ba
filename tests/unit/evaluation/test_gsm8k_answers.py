"""GSM8K's own answers, as they are, altered, and written in other ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.spec.tasks import MathTask, NumericTask
from workers.evaluation.tasks.catalogue import make_grader
from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Item

FILE = Path("../shared/data/gsm8k/test.jsonl")
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"needs {FILE}")

GRADERS = [make_grader(MathTask(type="math")), make_grader(NumericTask(type="numeric"))]
FORMATS: dict[str, Callable[[int], str]] = {
    "bare": str,
    "commas": lambda number: f"#### {number:,}",
    "trailing zeros": lambda number: f"{number}.00",
    "currency": lambda number: f"The answer is ${number:,}.50."[:-4] + ".00.",
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


@pytest.fixture(scope="module")
def solutions() -> list[str]:
    lines = FILE.read_text().splitlines()
    assert len(lines) == 1319
    return [json.loads(line)["answer"] for line in lines]


def final(solution: str) -> int:
    return int(solution.rpartition("####")[2].replace(",", ""))


@pytest.mark.parametrize("grader", GRADERS, ids=["math", "numeric"])
def test_their_own_answers_are_right(grader, solutions: list[str]) -> None:  # type: ignore[no-untyped-def]
    for solution in solutions:
        grader.check(Item("", solution))
        assert grader.grade(Item("", solution), solution).category == CORRECT
        assert grader.grade(Item("", solution), solution.replace(".", "")).category == CORRECT
