"""Answers with code, run for real: each has the category that it should."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from hpo.spec.errors import InputError
from hpo.spec.tasks import CodeTask, ProgramTask
from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.tasks.code import make_code_grader
from workers.evaluation.tasks.running import CATEGORIES
from workers.evaluation.tasks.task import Grade, Graded, Grader, Item

START = "from typing import List\n\ndef total(xs: List[int]) -> int:\n    '''Sum.'''\n"
TESTS = (
    "def check(candidate):\n"
    "    assert candidate([1, 2]) == 3\n"
    "    assert candidate([]) == 0, 'empty'\n"
)
CODE = Item(START, "", {"prompt": START, "test": TESTS, "entry_point": "total"})
PAIRS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11"}]
PROGRAM = Item("", "", {"tests": json.dumps(PAIRS)})
ADD = "a, b = map(int, input().split())\nprint(a + b)"
BARE = CodeTask(type="code", entry_point=None, continues=None)
SHORT = {"timeout_seconds": 1.0, "memory_mib": 128}


@pytest.fixture(scope="module")
def code(bubblewrap: BubblewrapSandbox) -> Grader:
    return make_code_grader(CodeTask(type="code", **SHORT), bubblewrap)


@pytest.fixture(scope="module")
def program(bubblewrap: BubblewrapSandbox) -> Grader:
    return make_code_grader(ProgramTask(type="program", **SHORT), bubblewrap)


def fenced(text: str) -> str:
    return f"Let me think.\n```python\n{text}\n```\nDone."


@pytest.mark.parametrize(
    ("answer", "category", "detail"),
    [
        ("    return sum(xs)\n", "correct", ""),
        (fenced("def total(xs: List[int]): return sum(xs)"), "correct", ""),
        (fenced(f"{START}    return sum(xs)"), "correct", ""),
        (fenced("    return sum(xs)"), "correct", ""),
        (fenced("def total(xs): pass") + fenced("def total(xs): return sum(xs)"), "correct", ""),
        (fenced("def total(xs): return sum(xs)") + fenced("print(total([1]))"), "correct", ""),
        (fenced("total = sum"), "correct", ""),
        ("def total(xs):\n    return sum(xs)\n\nThis sums up.", "correct", ""),
        (
            fenced("from __future__ import annotations\ndef total(xs: X): return sum(xs)"),
            "correct",
            "",
        ),
        (
            fenced(
                "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\n"
                "def total(xs): return sum(xs)"
            ),
            "correct",
            "",
        ),
        ("    return 3", "wrong_answer", "AssertionError: empty"),
        ("    pass", "wrong_answer", "AssertionError"),
        (fenced("def other(xs): return sum(xs)"), "wrong_answer", "AssertionError"),
        ("    return sum(xs) / 0", "crashed", "ZeroDivisionError: division by zero"),
        ("    assert False, 'mine'", "crashed", "AssertionError: mine"),
        ("    return total(xs)", "crashed", "RecursionError: maximum recursion depth exceeded"),
        ("    return bytearray(1 << 40)", "crashed", "out of memory"),
        ("    import os; os.abort()", "crashed", "ended with status 134"),
        ("    exit(0)", "crashed", "ended before the tests had passed"),
        ("    import os; os._exit(0)", "crashed", "ended before the tests had passed"),
        ("    while True: print('x' * 1000)", "crashed", "too much output"),
        ("    while True: pass", "timed_out", "not done after"),
        ("    return (", "syntax_error", "line 5: '(' was never closed"),
        (fenced("def total(xs:"), "syntax_error", "line 5: '(' was never closed"),
        ("    return " + "(" * 9000, "syntax_error", "line 5: too many nested parentheses"),
        ("I cannot do that.", "no_code", ""),
        ("", "no_code", ""),
    ],
)
def test_functions(code: Grader, answer: str, category: str, detail: str) -> None:
    code.check(CODE)
    grade = code.grade(CODE, answer)
    assert (grade.category, grade.score) == (category, float(category == "correct")), grade
    assert detail in grade.detail
    assert (grade.extracted is None) == (category == "no_code")
    assert len(grade.detail) < 400


@pytest.mark.parametrize(
    ("tests", "answer", "category"),
    [
        ("assert double(2) == 4", fenced("def double(x): return 2 * x"), "correct"),
        ("assert double(2) == 4", fenced("def double(x): return x"), "wrong_answer"),
        ("assert double(2) == 4", fenced("def triple(x): return x"), "crashed"),
        (
            "import unittest\nunittest.TestCase().assertEqual(double(2), 4)",
            fenced("def double(x): return x"),
            "wrong_answer",
        ),
    ],
)
def test_tests_without_an_entry_point(
    bubblewrap: BubblewrapSandbox, tests: str, answer: str, category: str
) -> None:
    grader, item = make_code_grader(BARE, bubblewrap), Item("", "", {"test": tests})
    grader.check(item)
    assert grader.grade(item, answer).category == category


@pytest.mark.parametrize(
    ("answer", "category", "detail"),
    [
        (fenced(ADD), "correct", ""),
        (ADD, "correct", ""),
        (fenced(ADD) + "Example:\n```\n1 2\n```\n```\n3\n```", "correct", ""),
        (
            fenced(
                f"def main():\n    {ADD.replace(chr(10), chr(10) + '    ')}\n"
                "if __name__ == '__main__':\n    main()"
            ),
            "correct",
            "",
        ),
        (fenced(f"import sys\n{ADD}\nsys.exit(0)"), "correct", ""),
        (fenced(f"{ADD}\nprint()\nexit()"), "correct", ""),
        (
            fenced(
                "import sys, os\na, b = sys.stdin.read().split()\n"
                "sys.stdout.buffer.write(b'%d  \\r\\n' % (int(a) + int(b)))"
            ),
            "correct",
            "",
        ),
        (fenced("print(3)"), "wrong_answer", "test 2 of 2: other output"),
        (fenced("print(3.0)"), "wrong_answer", "test 1 of 2: other output"),
        (fenced(f"{ADD}\nexit(1)"), "crashed", "test 1 of 2: ended with status 1"),
        (fenced(f"{ADD}\nraise ValueError('no')"), "crashed", "test 1 of 2: ValueError: no"),
        (fenced(f"{ADD}\ninput()"), "crashed", "EOFError"),
        (fenced("a = [0] * 10 ** 9"), "crashed", "out of memory"),
        (fenced("import time\nwhile True: time.sleep(1)"), "timed_out", "test 1 of 2: not done"),
        (fenced("print("), "syntax_error", "never closed"),
        ("No.", "no_code", ""),
    ],
)
def test_programs(program: Grader, answer: str, category: str, detail: str) -> None:
    program.check(PROGRAM)
    grade = program.grade(PROGRAM, answer)
    assert (grade.category, grade.score) == (category, float(category == "correct")), grade
    assert detail in grade.detail


def test_all_tests_of_a_program_share_its_time(bubblewrap: BubblewrapSandbox) -> None:
    grader = make_code_grader(ProgramTask(type="program", timeout_seconds=1.0), bubblewrap)
    tests = {"input": [""] * 9, "output": ["1"] * 9}
    item = Item("", "", {"tests": json.dumps(tests)})
    grade = grader.grade(item, "import time\ntime.sleep(0.4)\nprint(1)")
    assert grade.category == "timed_out"
    assert grade.detail.startswith("test 3 of 9: ")


@pytest.mark.parametrize(
    "tests",
    [
        "no json",
        "[]",
        "{}",
        "5",
        '[{"input": "1"}]',
        '[{"input": "1", "output": 2}]',
        '["1", "2"]',
        '{"input": ["1"], "output": []}',
        '{"input": [], "output": []}',
        None,
    ],
)
def test_malformed_tests_of_a_program(program: Grader, tests: str | None) -> None:
    fields = {} if tests is None else {"tests": tests}
    with pytest.raises(InputError, match="the field 'tests'"):
        program.check(Item("", "", fields))


@pytest.mark.parametrize(
    ("task", "fields", "error"),
    [
        (CodeTask(type="code"), {}, "the field 'test' is missing"),
        (
            CodeTask(type="code"),
            {"test": "def (", "entry_point": "f"},
            "'test' is no Python: line 1",
        ),
        (
            CodeTask(type="code"),
            {"test": "", "entry_point": "a b"},
            "given 'a b'; allowed: the name",
        ),
        (CodeTask(type="code"), {"test": "", "entry_point": "f"}, "the field 'prompt' is missing"),
        (BARE, {"test": TESTS}, "entry_point is null"),
    ],
)
def test_malformed_tests_of_a_function(
    bubblewrap: BubblewrapSandbox, task: CodeTask, fields: dict[str, str], error: str
) -> None:
    with pytest.raises(InputError, match=error):
        make_code_grader(task, bubblewrap).check(Item("", "", fields))


def test_rates_are_of_all_answers(code: Grader) -> None:
    assert code.categories == CATEGORIES
    assert not code.cheap
    item = Item("", "")
    found: Sequence[str] = (*CATEGORIES, "not_gradable", "not_asked")
    graded = [Graded(item, ["", ""], [Grade(name, 0.0)] * 2) for name in found]
    assert code.measures(graded) == {"generation_rate": 5 / 8, "parse_rate": 4 / 8}
    assert code.measures([]) == {"generation_rate": 0.0, "parse_rate": 0.0}
