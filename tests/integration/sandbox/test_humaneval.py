"""HumanEval's own solutions all pass; broken in any of several ways, none does."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpo.spec.tasks import CodeTask
from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.tasks.code import make_code_grader
from workers.evaluation.tasks.task import Item

FILE = Path(__file__).resolve().parents[4] / "shared/data/humaneval/HumanEval.jsonl.gz"
FIELDS = ("prompt", "test", "entry_point")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.exists(), reason="HumanEval is not here"),
]

# Another value of the same kind than the solution gives.
ALTERED = """

def _altered(right):
    match right:
        case bool():
            return not right
        case int() | float():
            return right + 1
        case str():
            return right + "x"
        case list():
            return [*right, None]
        case tuple():
            return (*right, None)
        case dict():
            return {**right, "x": None}
    return "x"

_right = {name}

def {name}(*arguments):
    return _altered(_right(*arguments))
"""

Row = dict[str, str]


def whole(row: Row) -> str:
    return row["prompt"] + row["canonical_solution"]


def altered(row: Row) -> str:
    solution = whole(row) + ALTERED.replace("{name}", row["entry_point"])
    return f"```python\n{solution}\n```"


def grades(sandbox: BubblewrapSandbox, answer: Callable[[Row], str]) -> Counter[str]:
    """Number of problems in each category."""
    with gzip.open(FILE, "rt") as lines:
        rows: list[Row] = [json.loads(line) for line in lines]
    items = [Item(row["prompt"], "", {name: row[name] for name in FIELDS}) for row in rows]
    grader = make_code_grader(CodeTask(type="code", timeout_seconds=60.0), sandbox)
    for item in items:
        grader.check(item)
    # The work is done by other processes.
    with ThreadPoolExecutor(2) as pool:
        return Counter(grade.category for grade in pool.map(grader.grade, items, map(answer, rows)))


def test_solutions_pass(bubblewrap: BubblewrapSandbox) -> None:
    assert grades(bubblewrap, lambda row: row["canonical_solution"]) == {"correct": 164}


def test_altered_solutions_fail(bubblewrap: BubblewrapSandbox) -> None:
    found = grades(bubblewrap, altered)
    assert found["correct"] == 0
    assert set(found) <= {"wrong_answer", "crashed"}
    assert found.total() == 164


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "answer",
    [
        lambda row: f"Here:\n```python\n{whole(row)}```\nIt works.",
        lambda row: f"```\n{whole(row)[row['prompt'].rindex('def ' + row['entry_point']) :]}```",
        lambda row: row["canonical_solution"] + "\n\nprint(input())\ndef unfinished(",
        lambda row: row["canonical_solution"].strip(),
        lambda row: f"The solution:\n\n{whole(row)}\nThat is all.",
    ],
    ids=["fenced", "function-alone", "runs-on", "unindented", "prose"],
)
def test_solutions_in_other_forms_pass(
    bubblewrap: BubblewrapSandbox, answer: Callable[[Row], str]
) -> None:
    assert grades(bubblewrap, answer) == {"correct": 164}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "body",
    [
        "    pass",
        "    return 'wrong'",
        "    return 10 ** 9 + 7",
        "    raise SystemExit(0)",
        "    import os; os._exit(0)",
        "    raise AssertionError",
        "    return (",
    ],
)
def test_broken_solutions_fail(bubblewrap: BubblewrapSandbox, body: str) -> None:
    found = grades(bubblewrap, lambda _: body)
    assert found["correct"] == 0
    assert found.total() == 164
