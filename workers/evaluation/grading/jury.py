"""Who grades the answers to a set: a grader right here, or the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from workers.evaluation.grading.errors import GradersUnavailable
from workers.evaluation.grading.inquiry import AssignedSet, Inquiry
from workers.evaluation.grading.judging import judged, not_gradable, refusal
from workers.evaluation.tasks.task import Grade, Graded, Grader, Item


class Jury(Protocol):
    """Grades the answers of one grading."""

    @property
    def categories(self) -> Sequence[str]:
        """All that the grader gives, the right one first."""

    @property
    def pending(self) -> bool:
        """Whether there are grades to wait for."""

    def submit(self, index: int, sample: int, answer: str) -> Grade | None:
        """The grade, or None when it comes by `next`."""

    def next(self) -> tuple[int, int, Grade] | None:
        """Item, sample and grade; None when there was none within a second."""

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """What the task measures of the whole set."""

    def close(self) -> None:
        """Want no more grades."""


class OwnJury:
    """A grader that is quick and safe enough for the worker itself."""

    pending = False

    def __init__(self, grader: Grader, items: Sequence[Item]) -> None:
        self._grader = grader
        self._items = items

    @property
    def categories(self) -> Sequence[str]:
        """All that the grader gives, the right one first."""
        return self._grader.categories

    def refusals(self) -> list[str | None]:
        """Why each item cannot be graded against; None for those that can."""
        return [refusal(self._grader, item) for item in self._items]

    def submit(self, index: int, sample: int, answer: str) -> Grade:
        """The grade."""
        return judged(self._grader, self._items[index], answer)

    def next(self) -> None:
        """Nothing comes later."""

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """What the task measures of the whole set."""
        return self._grader.measures(graded)

    def close(self) -> None:
        """Nothing is left."""


class JudgesJury:
    """The judges, in processes of their own."""

    def __init__(self, assigned: AssignedSet, categories: Sequence[str]) -> None:
        self.categories = categories
        self._assigned = assigned
        self._inquiry = Inquiry(assigned)

    @property
    def pending(self) -> bool:
        """Whether there are grades to wait for."""
        return self._inquiry.open

    def submit(self, index: int, sample: int, answer: str) -> None:
        """Send the answer to the judges."""
        self._inquiry.ask(index, sample, answer)

    def next(self) -> tuple[int, int, Grade] | None:
        """Item, sample and grade; None when there was none within a second.

        Raises InputError or GradersUnavailable when no judge can reply.
        """
        taken = self._inquiry.next()
        if taken is None:
            return None
        index, sample, reply = taken
        why = reply.lost or reply.refused or "the grader gave no grade"
        return index, sample, reply.grade or not_gradable(why)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """What the task measures of the whole set.

        Raises InputError or GradersUnavailable when no judge can tell.
        """
        inquiry = Inquiry(self._assigned)
        inquiry.ask(0, graded=graded)
        _, _, reply = inquiry.wait()
        if reply.measures is None:
            why = reply.lost or reply.refused
            raise GradersUnavailable(f"the set could not be measured: {why}")
        return reply.measures

    def close(self) -> None:
        """Want no more grades."""
        self._inquiry.close()


def asked_refusals(assigned: AssignedSet, number: int) -> tuple[list[str | None], Sequence[str]]:
    """Why each of so many items cannot be graded against, and the grader's categories.

    Raises InputError or GradersUnavailable when no judge can tell.
    """
    inquiry = Inquiry(assigned)
    for index in range(number):
        inquiry.ask(index)
    found: list[str | None] = [None] * number
    categories: Sequence[str] = ()
    while inquiry.open:
        index, _, reply = inquiry.wait()
        found[index] = reply.lost or reply.refused
        categories = reply.categories or categories
    return found, tuple(categories)
