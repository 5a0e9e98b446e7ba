"""Grading generated answers against references."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal, Self, assert_never

from hpo.spec.errors import InputError
from workers.evaluation.grading.math_pool import MathPool
from workers.evaluation.tasks.numeric import last_number

Task = Literal["exact", "numeric", "math"]

MOST_PROCESSES = 8


class Grader:
    """Grades by a task's rule; keeps processes for `math`, from its first use to the end."""

    def __init__(self, processes: int | None = None, *, item_seconds: float = 10.0) -> None:
        """`processes` defaults to the cores, up to eight; `item_seconds` limits one item."""
        self._processes = processes or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        self._item_seconds = item_seconds
        self._pool: MathPool | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool = None
        self._resources.close()

    def grade(
        self,
        task: Task,
        answers: Sequence[str],
        references: Sequence[str],
        on_progress: Callable[[], None] | None = None,
    ) -> list[bool]:
        """Whether each answer is right, in order.

        Raises InputError for a `numeric` reference without a number, and
        ValueError when there are not as many references as answers.
        """
        if len(answers) != len(references):
            raise ValueError(f"{len(answers)} answers, {len(references)} references")
        match task:
            case "exact":
                return [_stripped_equal(*pair) for pair in zip(answers, references, strict=True)]
            case "numeric":
                return [_same_number(*pair) for pair in zip(answers, references, strict=True)]
            case "math":
                return self._math(answers, references, on_progress)
            case _:
                assert_never(task)

    def _math(
        self,
        answers: Sequence[str],
        references: Sequence[str],
        on_progress: Callable[[], None] | None,
    ) -> list[bool]:
        if self._pool is None:
            pool = MathPool(self._processes, item_seconds=self._item_seconds)
            self._pool = self._resources.enter_context(pool)
        right = [_stripped_equal(*pair) for pair in zip(answers, references, strict=True)]
        # Only what is not equal as it stands needs a judge.
        open_items = [index for index, equal in enumerate(right) if not equal]
        verdicts = self._pool.grade(
            [answers[index] for index in open_items],
            [references[index] for index in open_items],
            on_progress,
        )
        for index, verdict in zip(open_items, verdicts, strict=True):
            right[index] = verdict
        return right


def _stripped_equal(answer: str, reference: str) -> bool:
    return answer.strip() == reference.strip()


def _same_number(answer: str, reference: str) -> bool:
    wanted = last_number(reference)
    if wanted is None:
        raise InputError(f"reference {reference[:80]!r} holds no number, which task numeric needs")
    return last_number(answer) == wanted
