"""Mathematical answers, judged by math-verify in processes of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hpo.spec.tasks import MathTask
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import NOT_GRADABLE, Item

MATH = MathTask(type="math")
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
ITEMS = [Item("", reference) for _, reference, _ in CASES]


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(2, item_seconds=20) as pool:
        yield pool


def right_ones(pool: GradingPool) -> list[bool]:
    with pool.begin(MATH, ITEMS) as grading:
        for index, (answer, _, _) in enumerate(CASES):
            grading.submit(index, 0, answer)
        return [grade.score == 1 for (grade,) in grading.grades()]


def test_answers(pool: GradingPool) -> None:
    assert right_ones(pool) == [right for _, _, right in CASES]


def test_grading_off_the_main_thread(pool: GradingPool) -> None:
    graded: list[list[bool]] = []
    thread = threading.Thread(target=lambda: graded.append(right_ones(pool)))
    thread.start()
    thread.join(120)
    assert graded == [[right for _, _, right in CASES]]


def test_an_endless_item_is_not_gradable_and_the_next_is_judged() -> None:
    endless = r"\boxed{9^{9^{9^{9^{9}}}} + 1}"
    with GradingPool(1, item_seconds=2) as pool, pool.begin(MATH, [Item("", "8")] * 2) as grading:
        grading.submit(0, 0, endless)
        grading.submit(1, 0, "8.0")
        (lost,), (right,) = grading.grades()
    assert (lost.category, lost.detail) == (NOT_GRADABLE, "the grader took more than 2 s")
    assert right.score == 1
