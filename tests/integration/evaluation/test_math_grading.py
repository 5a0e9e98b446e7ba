"""Mathematical answers, judged by math-verify in processes of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from workers.evaluation.grading.grader import Grader

CASES = [
    (r"so \boxed{\frac{1}{2}}", r"\boxed{0.5}", True),
    (r"first $3$, then \boxed{4}, as $5 > 4$", "4", True),
    (r"The answer is $\frac{\sqrt{8}}{2}$.", r"\sqrt{2}", True),
    (r"\frac{3}{4}", r"\frac{6}{8}", True),
    ("The answer is 42.", "42", True),
    ("1,000", "1000", True),
    (r"\boxed{(1, 2)}", "(1,2)", True),
    (r"\boxed{x^2 + 2x + 1}", r"(x+1)^2", True),
    (r"\boxed{\{1, 2\}}", r"\{2, 1\}", True),
    ("2 * 6 = 12", "2 times 6 is 12\n#### 12", True),
    (r"\boxed{7}", "8", False),
    ("", "8", False),
    ("no idea", "8", False),
    (r"\boxed{\frac{1}{0}", "8", False),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(2) as grader:
        yield grader


def test_answers(grader: Grader) -> None:
    answers, references, wanted = zip(*CASES, strict=True)
    assert grader.grade("math", answers, references) == list(wanted)


def test_grading_off_the_main_thread(grader: Grader) -> None:
    graded: list[list[bool]] = []
    thread = threading.Thread(
        target=lambda: graded.append(grader.grade("math", [r"\boxed{0.5}"], [r"\frac12"]))
    )
    thread.start()
    thread.join(60)
    assert graded == [[True]]


def test_an_endless_item_is_wrong_and_the_next_is_judged() -> None:
    endless = r"\boxed{9^{9^{9^{9^{9}}}} + 1}"
    with Grader(1, item_seconds=1.0) as grader:
        assert grader.grade("math", [endless, "7.0"], ["8", "7"]) == [False, True]


def test_judges_need_neither_torch_nor_vllm() -> None:
    code = (
        "import sys; from workers.evaluation.grading.math_judge import is_right;"
        "is_right('1', '2');"
        "sys.exit(bool({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
