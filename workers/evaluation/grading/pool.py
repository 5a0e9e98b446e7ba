"""The pool of judging processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hpo.spec.errors import InputError
from hpo.spec.identity import fingerprint
from hpo.spec.tasks import AnyTask, PythonTask, SandboxedTask
from workers.evaluation.grading.assignment import Assignment
from workers.evaluation.grading.grading import Grading
from workers.evaluation.grading.inquiry import AssignedSet
from workers.evaluation.grading.judges import Judges
from workers.evaluation.grading.jury import JudgesJury, Jury, OwnJury, asked_refusals
from workers.evaluation.sandbox.sandbox import most_at_once
from workers.evaluation.tasks.catalogue import make_grader
from workers.evaluation.tasks.task import Grader, Item

__all__ = ["Grading", "GradingPool"]

MOST_PROCESSES = 8


@dataclass(frozen=True)
class _KnownSet:
    """A set whose items have been checked."""

    task: AnyTask
    items: Sequence[Item]
    jury: Callable[[], Jury]
    """Another one for another grading."""


class GradingPool:
    """Judging processes; they start when they are first needed and live as long as the pool.

    A judge works on one set and is replaced when another set needs it. The pool
    and the gradings that it gives are for one thread.
    """

    def __init__(self, processes: int | None = None, *, item_seconds: float = 10.0) -> None:
        """`processes` defaults to the cores, up to eight; `item_seconds` limits one answer.

        Answers that are run as code have their task's time besides.
        """
        self._processes = processes or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        self._item_seconds = item_seconds
        self._judges: Judges | None = None
        self._known: list[_KnownSet] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; a later `begin` starts others."""
        self._known.clear()
        if self._judges is not None:
            self._judges.close()
            self._judges = None

    def begin(self, task: AnyTask, items: Sequence[Item]) -> Grading:
        """Get ready for the answers to a set; at once for one that it has had before.

        Raises InputError for a set without items, for an item that no answer could
        be graded against and for a task that cannot be graded on this machine, and
        GradersUnavailable when no process for grading can start.
        """
        if self._judges is not None and self._judges.ended is not None:
            self.close()
        items = tuple(items)
        known = self._recall(task, items)
        if known is None:
            known = self._check(task, items)
            self._known.append(known)
        return Grading(len(items), known.jury())

    def _recall(self, task: AnyTask, items: tuple[Item, ...]) -> _KnownSet | None:
        for known in self._known:
            if known.task == task and known.items == items:
                return known
        return None

    def _check(self, task: AnyTask, items: tuple[Item, ...]) -> _KnownSet:
        if not items:
            raise InputError("given a set without items; allowed: one or more")
        grader = _cheap_grader(task)
        if grader is None:
            return self._check_by_judges(task, items)
        own = OwnJury(grader, items)
        _require_gradable(own.refusals())
        return _KnownSet(task, items, lambda: OwnJury(grader, items))

    def _check_by_judges(self, task: AnyTask, items: tuple[Item, ...]) -> _KnownSet:
        if self._judges is None:
            self._judges = Judges(self._processes)
        seconds = self._seconds(task)
        file = fingerprint(task.path) if isinstance(task, PythonTask) else None
        assignment = Assignment(task, items, seconds, file)
        number = self._judges.assign(assignment, self._most(task))
        assigned = AssignedSet(self._judges, number, seconds)
        refusals, categories = asked_refusals(assigned, len(items))
        _require_gradable(refusals)
        return _KnownSet(task, items, lambda: JudgesJury(assigned, categories))

    def _most(self, task: AnyTask) -> int:
        """Judges that a task may have; some sandboxes run one program at a time."""
        at_once = most_at_once() if isinstance(task, SandboxedTask) else None
        return self._processes if at_once is None else min(at_once, self._processes)

    def _seconds(self, task: AnyTask) -> float:
        """The time limit of one answer; the sandbox ends code by itself before."""
        own = task.timeout_seconds if isinstance(task, SandboxedTask) else 0.0
        return own + self._item_seconds


def _require_gradable(refusals: Sequence[str | None]) -> None:
    for number, why in enumerate(refusals, 1):
        if why is not None:
            raise InputError(f"item {number} of {len(refusals)} cannot be graded: {why}")


def _cheap_grader(task: AnyTask) -> Grader | None:
    """The grader, where judging takes no process of its own."""
    # What runs a user's file is not even loaded here.
    if isinstance(task, SandboxedTask | PythonTask):
        return None
    grader = make_grader(task)
    return grader if grader.cheap else None
