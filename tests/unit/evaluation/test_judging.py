"""Asking graders, and what judges and the pool say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from hpo.spec.tasks import AnyTask, CodeTask, MathTask, NumericTask
from workers.evaluation.grading.assignment import (
    Assignment,
    decode_assignment,
    encode_assignment,
)
from workers.evaluation.grading.judging import judged, refusal
from workers.evaluation.grading.messages import (
    Lines,
    Question,
    Reply,
    decode_question,
    decode_reply,
    encode_question,
    encode_reply,
)
from workers.evaluation.tasks.task import CORRECT, NOT_GRADABLE, Grade, Graded, Item

ITEM = Item("prompt", "reference")
TEXTS = st.text(st.characters(), max_size=20)
GRADES = st.builds(Grade, TEXTS, st.floats(0, 1), st.none() | TEXTS, TEXTS)


@dataclass
class FixedGrader:
    """Gives one grade, or raises."""

    given: Grade | BaseException
    categories: Sequence[str] = (CORRECT,)
    cheap: bool = True

    def check(self, item: Item) -> None:
        if isinstance(self.given, BaseException):
            raise self.given

    def grade(self, item: Item, answer: str) -> Grade:
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        return {}


def test_a_grade_is_passed_on() -> None:
    grade = Grade(CORRECT, 1.0, "42")
    assert judged(FixedGrader(grade), ITEM, "42") == grade
    assert refusal(FixedGrader(grade), ITEM) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (SystemExit(3), "SystemExit: 3"),
        (InputError("given nothing"), "given nothing"),
        (LookupError("x" * 10_000), "LookupError: " + "x" * 500),
    ],
    ids=["error", "recursion", "exit", "input", "long"],
)
def test_a_grader_that_fails_is_the_reason(given: BaseException, why: str) -> None:
    grade = judged(FixedGrader(given), ITEM, "42")
    assert (grade.category, grade.score, grade.detail) == (NOT_GRADABLE, 0, why)
    assert refusal(FixedGrader(given), ITEM) == why


@pytest.mark.parametrize("given", [MemoryError(), KeyboardInterrupt()], ids=["memory", "stop"])
def test_what_is_no_fault_of_the_answer_is_raised(given: BaseException) -> None:
    with pytest.raises(type(given)):
        judged(FixedGrader(given), ITEM, "42")
    with pytest.raises(type(given)):
        refusal(FixedGrader(given), ITEM)


@pytest.mark.parametrize("grade", [Grade(CORRECT, nan), Grade(CORRECT, 1.5), Grade("splendid", 1)])
def test_impossible_grades_are_not_passed_on(grade: Grade) -> None:
    got = judged(FixedGrader(grade), ITEM, "42")
    assert (got.category, got.score) == (NOT_GRADABLE, 0)
    assert "allowed: " in got.detail


@pytest.mark.parametrize(
    "task",
    [
        MathTask(type="math", answer="boxed"),
        NumericTask(type="numeric", tolerance=0.1),
        CodeTask(type="code", entry_point=None, timeout_seconds=2.5),
    ],
    ids=lambda task: task.type,
)
def test_an_assignment_arrives_as_it_was(task: AnyTask) -> None:
    items = [ITEM, Item("\ud800\n", "", {"tests": "[1]"}, {"level": "5"})]
    line = encode_assignment(Assignment(task, items, 12.5))
    assert line.count(b"\n") == 1
    assert decode_assignment(line) == Assignment(task, items, 12.5)


@given(st.integers(1), st.none() | TEXTS)
def test_a_question_arrives_as_it_was(ticket: int, answer: str | None) -> None:
    question = Question(ticket, 1, answer, [])
    line = encode_question(question)
    assert line.count(b"\n") == 1
    assert decode_question(line, [ITEM, ITEM]) == question


@given(st.lists(st.tuples(TEXTS, GRADES), max_size=3))
def test_graded_items_arrive_as_they_were(samples: list[tuple[str, Grade]]) -> None:
    answers, grades = [text for text, _ in samples], [grade for _, grade in samples]
    question = Question(1, 0, None, [Graded(ITEM, answers, grades), Graded(ITEM, [], [])])
    assert decode_question(encode_question(question), [ITEM, ITEM]) == question


@given(
    st.builds(
        Reply,
        st.integers(0),
        grade=st.none() | GRADES,
        retiring=st.booleans(),
        categories=st.lists(TEXTS),
        refused=st.none() | TEXTS.filter(bool),
    )
)
def test_a_reply_arrives_as_it_was(reply: Reply) -> None:
    arrived = decode_reply(encode_reply(reply))
    assert arrived.grade == reply.grade
    assert list(arrived.categories) == list(reply.categories)
    assert (arrived.ticket, arrived.refused, arrived.retiring) == (
        reply.ticket,
        reply.refused,
        reply.retiring,
    )


@given(st.binary(max_size=60), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_whole_however_they_arrive(content: bytes, sizes: list[int]) -> None:
    lines = Lines()
    found: list[bytes] = []
    rest, turn = content, 0
    while rest:
        size = sizes[turn % len(sizes)]
        found += lines.split(rest[:size])
        rest, turn = rest[size:], turn + 1
    assert found == content.splitlines(keepends=True)[: content.count(b"\n")] or b"\r" in content
    assert b"".join(found) == content[: content.rfind(b"\n") + 1]
