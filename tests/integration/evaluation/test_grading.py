"""What is given back for the answers to a set, with judges that do their work."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from grading_lab import ANY, graded, items, own_task

from hpo.spec.errors import InputError
from hpo.spec.tasks import CodeTask, ExactTask, MathTask, NumericTask, PythonTask, TextTask
from workers.evaluation.grading.assignment import Assignment
from workers.evaluation.grading.inquiry import AssignedSet, Inquiry
from workers.evaluation.grading.judges import Judges
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import Grade, Graded, Item


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PythonTask:
    return own_task(tmp_path_factory.mktemp("grader"))


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(2) as pool:
        yield pool


def test_cheap_graders_need_no_process() -> None:
    before = psutil.Process().children()
    with GradingPool() as pool:
        for _ in range(2):
            with pool.begin(ExactTask(), items(2)) as grading:
                grading.submit(1, 0, " answer 1\n")
                grading.submit(0, 0, "nothing")
                assert [[grade.score for grade in some] for some in grading.grades()] == [[0], [1]]
                assert grading.categories[0] == "correct"
        assert psutil.Process().children() == before


def test_grades_by_item_and_sample(pool: GradingPool, task: PythonTask) -> None:
    answers = [(index, sample) for index in range(20) for sample in range(3)]
    random.Random(5).shuffle(answers)
    calls: list[None] = []
    with pool.begin(task, items(21)) as grading:
        for index, sample in answers:
            grading.submit(index, sample, f"answer {index if sample else sample}")
        grades = grading.grades(lambda: calls.append(None))
    assert len(calls) >= len(answers)
    assert grades[20] == []
    for index, samples in enumerate(grades[:20]):
        assert [grade.score for grade in samples] == [float(index == 0), 1, 1]
        assert [grade.extracted for grade in samples][1:] == [f"answer {index}"] * 2


def test_gradings_of_one_set_may_overlap(pool: GradingPool, task: PythonTask) -> None:
    with pool.begin(task, items(8)) as one, pool.begin(task, items(8)) as other:
        for index in range(8):
            one.submit(index, 0, f"answer {index}")
            other.submit(index, 0, f"other {index}")
        assert [grade.extracted for (grade,) in other.grades()] == [f"other {i}" for i in range(8)]
        assert [grade.extracted for (grade,) in one.grades()] == [f"answer {i}" for i in range(8)]


def test_text_of_any_kind_reaches_the_judge(pool: GradingPool, task: PythonTask) -> None:
    texts = ["two\nlines", "\u221a2", "\x00", "x" * 300_000, '"', "\ud800", "", "\u2028 \r"]
    with pool.begin(task, [Item("", text) for text in texts]) as grading:
        for index, text in enumerate(texts):
            grading.submit(index, 0, text)
        assert [grade.score for (grade,) in grading.grades()] == [1] * len(texts)


def test_what_a_grader_prints_and_reads_is_its_own(pool: GradingPool, task: PythonTask) -> None:
    first, second = graded(pool, task, ["talk", "fine"])
    assert (first.score, second.score) == (1, 1)


def test_judges_need_no_heavy_libraries(pool: GradingPool, task: PythonTask) -> None:
    assert [grade.score for grade in graded(pool, task, ["heavy"])] == [1]
    code = (
        "import sys, workers.evaluation.grading.dispatcher, workers.evaluation.grading.pool;"
        "sys.exit(bool({'torch', 'vllm', 'transformers', 'math_verify'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_submitting_never_waits(task: PythonTask) -> None:
    with GradingPool(1) as pool, pool.begin(task, items(2000)) as grading:
        grading.submit(0, 0, "sleep 600")
        started = time.thread_time()
        for index in range(1, 2000):
            grading.submit(index, 0, "x" * 10_000)
        # Far more than the pipes take.
        assert time.thread_time() - started < 2


def test_what_was_left_early_reaches_nobody(task: PythonTask) -> None:
    with GradingPool(1) as pool:
        (before,) = graded(pool, task, ["process"])
        for _ in range(5):
            with pool.begin(task, ANY) as left:
                for sample in range(10):
                    left.submit(0, sample, f"sleep 0.05 {sample}")
            assert [grade.extracted for grade in graded(pool, task, ["one", "two", "process"])] == [
                "one",
                "two",
                before.extracted,
            ]


def test_what_progress_raises_ends_the_grading(pool: GradingPool, task: PythonTask) -> None:
    def stop() -> None:
        raise InterruptedError("enough")

    with pool.begin(task, items(4)) as grading:
        for index in range(4):
            grading.submit(index, 0, "slow")
        with pytest.raises(InterruptedError):
            grading.grades(stop)
        with pytest.raises(RuntimeError, match="over; begin another"):
            grading.submit(0, 1, "late")
        with pytest.raises(RuntimeError, match="over; begin another"):
            grading.grades()
    assert [grade.score for grade in graded(pool, task, ["a", "b"])] == [1, 1]


def test_nothing_reaches_from_one_set_to_another(task: PythonTask) -> None:
    sets = {name: items(1, name) for name in ("validation", "test")}
    with GradingPool(1) as pool:
        for name, kept in (("validation", False), ("validation", True), ("test", False)):
            with pool.begin(task, sets[name]) as grading:
                grading.submit(0, 0, "seen")
                grading.submit(0, 1, "one")
                told = str(grading.grades()[0][0].extracted).split(",")
            assert told == (["seen", "one", "seen"] if kept else ["seen"])


def test_every_item_is_checked() -> None:
    good = [Item("one", "#### 1")] * 3
    with GradingPool(1) as pool:
        for task in (MathTask(type="math"), NumericTask(type="numeric")):
            with pytest.raises(InputError, match="item 4 of 5 cannot be graded: reference"):
                pool.begin(task, [*good, Item("two", ""), *good[:1]])
            with pool.begin(task, good) as grading:
                grading.submit(0, 0, "#### 1.0")
                assert grading.grades()[0][0].score == 1
        with pytest.raises(InputError, match="a set without items"):
            pool.begin(ExactTask(), [])


def test_measures_come_from_a_judge(pool: GradingPool) -> None:
    asked = [Item("one", "the cat sat"), Item("two", "on the mat")]
    with pool.begin(TextTask(type="text"), asked) as grading:
        grading.submit(0, 0, "the cat sat")
        grades = grading.grades()[0]
        done = [Graded(asked[0], ["the cat sat"], grades), Graded(asked[1], [""], [Grade("", 0.0)])]
        assert 0 < grading.measures(done)["chrf"] < 100
        assert grading.categories == ("scored", "empty")
        with pytest.raises(ValueError, match="1 graded items; allowed: the 2 of the set"):
            grading.measures(done[:1])


def test_most_tasks_measure_nothing_besides(pool: GradingPool, task: PythonTask) -> None:
    with pool.begin(task, items(1)) as grading:
        assert grading.measures([Graded(Item("", ""), [], [])]) == {}
    with pool.begin(ExactTask(), items(1)) as grading:
        assert grading.measures([Graded(Item("", ""), [], [])]) == {}


def test_a_grading_may_outlive_its_pool(task: PythonTask) -> None:
    with GradingPool(1) as pool:
        grading = pool.begin(task, items(1))
        grading.submit(0, 0, "sleep 600")
    with pytest.raises(RuntimeError, match="the pool of graders was closed"):
        grading.grades()


def test_a_set_may_be_limited_to_fewer_judges(task: PythonTask) -> None:
    judges = Judges(3)
    try:
        assigned = AssignedSet(judges, judges.assign(Assignment(task, ANY, 60), 1), 60)
        inquiry = Inquiry(assigned)
        for sample in range(12):
            inquiry.ask(0, sample, "process")
        grades = [inquiry.wait()[2].grade for _ in range(12)]
        assert len({grade.extracted for grade in grades if grade is not None}) == 1
        assert not inquiry.open
    finally:
        judges.close()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_code_is_judged_in_the_sandbox_by_its_own_time_limit() -> None:
    task = CodeTask(type="code", entry_point="name", continues=None, timeout_seconds=2)
    fields = {"test": "def check(one):\n    assert one(2) == 4\n", "name": "double"}
    answers = ["return 2 * x", "return x", "while True: pass"]
    with GradingPool(2) as pool, pool.begin(task, [Item("", "", fields)]) as grading:
        for sample, body in enumerate(answers):
            grading.submit(0, sample, f"```python\ndef double(x):\n    {body}\n```")
        (grades,) = grading.grades()
    assert [grade.category for grade in grades] == ["correct", "wrong_answer", "timed_out"]


def test_answers_that_cannot_be_are_refused(pool: GradingPool, task: PythonTask) -> None:
    with pool.begin(task, items(2)) as grading:
        for index, sample in ((2, 0), (-1, 0), (0, -1)):
            with pytest.raises(ValueError, match="the set has 2 items"):
                grading.submit(index, sample, "a")
        grading.submit(0, 1, "a")
        with pytest.raises(ValueError, match="item 0, sample 1 was submitted before"):
            grading.submit(0, 1, "a")
        with pytest.raises(ValueError, match=r"item 0 has answers for the samples \[1\] only"):
            grading.grades()


def test_a_pool_that_was_closed_leaves_nobody(task: PythonTask) -> None:
    mine = psutil.Process(os.getpid())
    before = set(mine.children(recursive=True))
    with GradingPool(2) as pool, pool.begin(task, items(4)) as grading:
        for index in range(4):
            grading.submit(index, 0, "sleep 600")
        started = set(mine.children(recursive=True)) - before
        assert started
    assert not any(process.is_running() for process in started)
