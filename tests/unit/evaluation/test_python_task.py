"""Graders of one's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo.spec.errors import InputError
from hpo.spec.tasks import PythonTask
from workers.evaluation.tasks.python import PythonGrader
from workers.evaluation.tasks.task import CORRECT, FORMAT_FAILURE, WRONG_ANSWER, Grade, Item

GRADER = '''
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Words:
    number: int


def grade(answer, reference, fields):
    """As many words as asked for."""
    words = Words(len(answer.split()))
    if not words.number:
        return {"score": 0, "category": "format_failure", "detail": "no words"}
    if words.number > int(fields["most"]):
        return {"score": 0.5, "category": "too_long", "extracted": str(words.number)}
    return words == Words(int(reference))
'''


def write(folder: Path, text: str) -> Path:
    path = folder / "own.py"
    path.write_text(text)
    return path


def giving(folder: Path, value: str) -> PythonGrader:
    """A grader that gives a value, categories `partly` allowed."""
    path = write(folder, f"def grade(answer, reference, fields):\n    return {value}\n")
    return PythonGrader(PythonTask(type="python", path=str(path), categories=("partly",)))


def test_a_grader_of_ones_own(tmp_path: Path) -> None:
    task = PythonTask(
        type="python",
        path=str(write(tmp_path, GRADER)),
        fields=("most",),
        categories=("too_long",),
    )
    grader, item = PythonGrader(task), Item("", "2", fields={"most": "3"})
    grader.check(item)
    assert grader.categories == (CORRECT, WRONG_ANSWER, FORMAT_FAILURE, "too_long")
    assert not grader.cheap
    assert grader.grade(item, "a b") == Grade(CORRECT, 1.0)
    assert grader.grade(item, "a b c") == Grade(WRONG_ANSWER, 0.0)
    assert grader.grade(item, "a b c d") == Grade("too_long", 0.5, "4")
    assert grader.grade(item, "") == Grade(FORMAT_FAILURE, 0.0, None, "no words")
    assert grader.measures([]) == {}
    assert "own" not in sys.modules


@pytest.mark.parametrize(
    ("value", "grade"),
    [
        ("True", Grade(CORRECT, 1.0)),
        ("0", Grade(WRONG_ANSWER, 0.0)),
        ("0.25", Grade(WRONG_ANSWER, 0.25)),
        ("__import__('numpy').float32(0.5)", Grade(WRONG_ANSWER, 0.5)),
        ("__import__('numpy').bool_(True)", Grade(CORRECT, 1.0)),
        ("{'score': 1, 'category': 'partly'}", Grade("partly", 1.0)),
        ("{'score': 1.0, 'category': None, 'detail': 'yes'}", Grade(CORRECT, 1.0, None, "yes")),
    ],
)
def test_what_may_be_given(tmp_path: Path, value: str, grade: Grade) -> None:
    assert giving(tmp_path, value).grade(Item("", ""), "") == grade


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("None", "a truth value, a number from 0 to 1 or a mapping"),
        ("1.5", "a truth value, a number from 0 to 1"),
        ("float('nan')", "a truth value, a number from 0 to 1"),
        ("'yes'", "a truth value, a number from 0 to 1"),
        ("{}", "`score` is needed"),
        ("{'score': 1, 'colour': 2}", "a mapping with score, category, extracted, detail"),
        ("{'score': 1, 'category': 'other'}", "one of correct, wrong_answer, format_failure"),
        ("{'score': 0.5, 'category': 'correct'}", "`correct` with 1, and only it"),
        ("{'score': 1, 'category': 'wrong_answer'}", "`correct` with 1, and only it"),
        ("{'score': 1, 'extracted': 5}", "a text or None, as `extracted`"),
    ],
)
def test_what_may_not_be_given(tmp_path: Path, value: str, allowed: str) -> None:
    grader = giving(tmp_path, value)
    with pytest.raises(ValueError, match=re.escape(allowed)) as raised:
        grader.grade(Item("", ""), "")
    assert f"{tmp_path}/own.py: grade() gave " in str(raised.value)


def test_what_it_raises_goes_on(tmp_path: Path) -> None:
    grader = giving(tmp_path, "1 / 0")
    with pytest.raises(ZeroDivisionError):
        grader.grade(Item("", ""), "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef grade(:\n", ":2: SyntaxError: "),
        ("\n\nimport no_such_module\n", ":3: ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", ":2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no')\n", ":2: SystemExit: no"),
        ("def score(): ...\n", ": given no function 'grade'; allowed: a file that defines it"),
        ("grade = 5\n", ": given no function 'grade'"),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(f"{path}{message}")):
        PythonGrader(PythonTask(type="python", path=str(path)))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given no such file; allowed: a Python file"):
        PythonGrader(PythonTask(type="python", path=str(tmp_path / "none.py")))
    with pytest.raises(InputError, match="given no such file"):
        PythonGrader(PythonTask(type="python", path=str(tmp_path)))


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    graders: list[Any] = []
    for name, value in (("a", "True"), ("b", "False")):
        (tmp_path / name).mkdir()
        graders.append(giving(tmp_path / name, value))
    assert [grader.grade(Item("", ""), "").score for grader in graders] == [1.0, 0.0]


def test_categories_are_ones_own(tmp_path: Path) -> None:
    path = str(write(tmp_path, GRADER))
    task = PythonTask(type="python", path=path, categories=("not_gradable",))
    with pytest.raises(InputError, match="given 'not_gradable'; allowed: other names"):
        PythonGrader(task)


def test_another_function_and_ending(tmp_path: Path) -> None:
    path = tmp_path / "grader.txt"
    path.write_text("def mine(*, answer, reference, fields):\n    return answer == reference\n")
    grader = PythonGrader(PythonTask(type="python", path=str(path), function="mine"))
    assert grader.grade(Item("", "a"), "a").score == 1
    assert not (tmp_path / "__pycache__").exists()


def test_the_grader_in_the_documents(tmp_path: Path) -> None:
    document = Path(__file__).parents[3] / "docs" / "tasks.md"
    section = document.read_text().partition("## A grader of your own")[2]
    shown = section.partition("```python\n")[2].partition("```")[0]
    path = str(write(tmp_path, shown))
    grader = PythonGrader(PythonTask(type="python", path=path, categories=("wrong_season",)))
    item = Item("", "", fields={"season": "winter"})
    answers = ("one\ntwo\nwinter", "one\ntwo\nthree", "one")
    categories = [grader.grade(item, answer).category for answer in answers]
    assert categories == [CORRECT, "wrong_season", FORMAT_FAILURE]
