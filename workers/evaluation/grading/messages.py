"""What is said to judges and by them: one JSON document on each line.

The worker speaks to the dispatcher, which speaks to the judges:

    assign SET MOST ASSIGNMENT     how many judges it may have, and what they are told first
    ask SET INQUIRY SECONDS QUESTION
    forget INQUIRY                 its open questions need no replies

A judge is sent the assignment, which it answers with a reply of ticket 0, then
one question after another. Its replies go back to the worker as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workers.evaluation.tasks.task import Grade, Graded, Item

ASSIGN, ASK, FORGET = b"assign", b"ask", b"forget"
MEMORY_BYTES = 4 << 30
"""Address space of a judge."""
OUT_OF_MEMORY = 97
"""Exit code of a judge whose memory does not suffice for a question."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a judge does."""

    ticket: int
    """Above 0, and never given twice."""
    index: int
    """Of the item."""
    answer: str | None = None
    """To be graded; None asks whether the item can be graded against at all."""
    graded: Sequence[Graded] = ()
    """All items with their grades asks for the measures of the set instead."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge made of its assignment (ticket 0) or of a question."""

    ticket: int
    grade: Grade | None = None
    """Of an answer."""
    refused: str | None = None
    """What is wrong with the assignment, the item or the measures."""
    categories: Sequence[str] = ()
    """All that the grader gives, where an item was asked about."""
    measures: Mapping[str, float] | None = None
    """Of a whole set."""
    retiring: bool = False
    """The judge has grown and wants to be replaced."""
    lost: str | None = None
    """How the judge was lost over the question; from the dispatcher."""
    unable: str | None = None
    """Why there can be no reply: no judge can start, or the sandbox does not work."""
    given: bool = False
    """Whether that is by what was given, and no fault of this machine's."""


def encode_question(question: Question) -> bytes:
    """As a line; graded items without what the assignment has told."""
    graded = [[[*one.answers], [asdict(g) for g in one.grades]] for one in question.graded]
    return encode_line([question.ticket, question.index, question.answer, graded])


def decode_question(line: bytes, items: Sequence[Item]) -> Question:
    """From a line, with the assignment's items."""
    ticket, index, answer, content = json.loads(line)
    graded = [
        Graded(item, answers, [Grade(**grade) for grade in grades])
        for item, (answers, grades) in zip(items, content, strict=bool(content))
    ]
    return Question(ticket, index, answer, graded)


def encode_reply(reply: Reply) -> bytes:
    """As a line.

    Raises ValueError or TypeError for a grade or a measure that is no JSON.
    """
    said = {key: value for key, value in asdict(reply).items() if value not in (None, ())}
    return encode_line(said)


def decode_reply(line: bytes) -> Reply:
    """From a line.

    Raises ValueError, TypeError or AttributeError for anything else.
    """
    content = json.loads(line)
    grade = content.pop("grade", None)
    return Reply(**content, grade=None if grade is None else Grade(**grade))


def encode_line(content: Any) -> bytes:
    """JSON in which no text can hold a line's end, and half a character gets through."""
    return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"


class Lines:
    """Lines out of what a pipe gives."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def split(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now, with their ends."""
        if b"\n" not in chunk:
            self._rest.append(chunk)
            return []
        *lines, rest = b"".join([*self._rest, chunk]).split(b"\n")
        self._rest = [rest]
        return [line + b"\n" for line in lines]
