"""Answers that are the reference to the letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpo.spec.errors import InputError
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import right_or_wrong


class ExactGrader:
    """The answer is the reference, but for space around it; an empty one has no format."""

    categories: Sequence[str] = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
    cheap = True

    def check(self, item: Item) -> None:
        """Raise InputError for an empty reference."""
        if not item.reference.strip():
            raise InputError("reference '' is empty; allowed for task exact: a text")

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        written = answer.strip()
        if not written:
            return Grade(FORMAT_FAILURE, 0.0, None, "empty")
        return right_or_wrong(written == item.reference.strip(), written)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}
