"""A task with its items, as judges are told it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from hpo.spec.tasks import AnyTask
from workers.evaluation.grading.messages import encode_line
from workers.evaluation.tasks.task import Item


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a judge works on for the rest of its life."""

    task: AnyTask
    items: Sequence[Item]
    seconds: float
    """Longest time that one question may take."""
    fingerprint: str | None = None
    """Of the file with the grader, where the task names one: all judges use the same."""


def encode_assignment(assignment: Assignment) -> bytes:
    """As a line."""
    items = [[i.prompt, i.reference, {**i.fields}, {**i.labels}] for i in assignment.items]
    task = assignment.task.model_dump(mode="json")
    return encode_line([task, items, assignment.seconds, assignment.fingerprint])


def decode_assignment(line: bytes) -> Assignment:
    """From a line."""
    task, items, seconds, fingerprint = json.loads(line)
    adapter: TypeAdapter[AnyTask] = TypeAdapter(AnyTask)
    known = [Item(*item) for item in items]
    return Assignment(adapter.validate_python(task), known, seconds, fingerprint)
