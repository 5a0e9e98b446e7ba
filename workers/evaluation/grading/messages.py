"""What the pool and its judges say to each other: one JSON document on each line.

A judge is told a task with its items once, and answers with a reply of serial
number 0. Then each question gets one reply with the question's number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from hpo.spec.tasks import AnyTask
from workers.evaluation.tasks.task import Grade, Item


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a judge does."""

    serial: int
    index: int
    """Of the item."""
    answer: str | None
    """To be graded; None asks whether the item can be graded against at all."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge made of the task (number 0) or of a question."""

    serial: int
    grade: Grade | None = None
    """Of an answer."""
    refused: str | None = None
    """What is wrong with the task or the item; None when all is well."""
    retiring: bool = False
    """The judge has grown and wants to be replaced."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a judge works on for the rest of its life."""

    task: AnyTask
    items: Sequence[Item]
    seconds: float
    """Longest time that one question may take."""


def encode_assignment(assignment: Assignment) -> bytes:
    """As a line."""
    items = [[i.prompt, i.reference, {**i.fields}, {**i.labels}] for i in assignment.items]
    return _line([assignment.task.model_dump(mode="json"), items, assignment.seconds])


def decode_assignment(line: bytes) -> Assignment:
    """From a line."""
    task, items, seconds = json.loads(line)
    adapter: TypeAdapter[AnyTask] = TypeAdapter(AnyTask)
    return Assignment(adapter.validate_python(task), [Item(*item) for item in items], seconds)


def encode_question(question: Question) -> bytes:
    """As a line."""
    return _line([question.serial, question.index, question.answer])


def decode_question(line: bytes) -> Question:
    """From a line."""
    return Question(*json.loads(line))


def encode_reply(reply: Reply) -> bytes:
    """As a line.

    Raises ValueError or TypeError for a grade that is no JSON.
    """
    grade = None if reply.grade is None else asdict(reply.grade)
    return _line([reply.serial, grade, reply.refused, reply.retiring])


def decode_reply(line: bytes) -> Reply:
    """From a line."""
    serial, grade, refused, retiring = json.loads(line)
    return Reply(serial, None if grade is None else Grade(**grade), refused, retiring)


def _line(content: Any) -> bytes:
    # Escaped, so that no text can hold a line's end and half a character gets through.
    return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"
