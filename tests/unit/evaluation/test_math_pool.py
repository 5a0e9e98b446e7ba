"""The pool with judges that are quick, that hang and that die; the true judge is tested apart."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from workers.evaluation.grading.math_pool import MathPool

JUDGE = """
import json, os, sys, time
os.write(1, b"R")
for line in sys.stdin:
    reference, answer = json.loads(line)
    if answer == "hang":
        time.sleep(600)
    if answer == "die":
        os._exit(1)
    os.write(1, b"1" if answer == reference else b"0")
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "judge.py"
    script.write_text(JUDGE)
    return sys.executable, str(script)


def test_order_is_kept_and_progress_reported(command: tuple[str, ...]) -> None:
    calls: list[None] = []
    with MathPool(2, command=command) as pool:
        graded = pool.grade(
            [str(number % 3) for number in range(20)], ["1"] * 20, lambda: calls.append(None)
        )
    assert graded == [number % 3 == 1 for number in range(20)]
    assert len(calls) == 20


def test_a_hung_or_dead_judge_is_wrong_and_replaced(command: tuple[str, ...]) -> None:
    with MathPool(1, item_seconds=0.3, command=command) as pool:
        started = time.monotonic()
        graded = pool.grade(["1", "hang", "1", "die", "1"], ["1"] * 5)
        assert graded == [True, False, True, False, True]
        assert time.monotonic() - started < 10


def test_a_judge_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    with MathPool(1, command=command) as pool, pytest.raises(RuntimeError, match="did not start"):
        pool.grade(["1"], ["1"])


def test_text_of_any_kind_reaches_the_judge(command: tuple[str, ...]) -> None:
    texts = ["two\nlines", "\u221a2", "\x00", "x" * 200_000, '"']
    with MathPool(1, command=command) as pool:
        assert pool.grade(texts, texts) == [True] * len(texts)
