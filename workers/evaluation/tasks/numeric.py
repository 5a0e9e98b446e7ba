"""Answers whose number is the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from hpo.spec.errors import InputError
from hpo.spec.tasks import NumericTask
from workers.answers.marks import HASHES, marked_answer
from workers.answers.numbers import Number, last_number, stated_number
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import right_or_wrong, shown


class NumericGrader:
    """The number of the answer is the reference's, within the tolerance."""

    categories: Sequence[str] = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
    cheap = True

    def __init__(self, task: NumericTask) -> None:
        # What is written: 0.1 is a tenth here.
        self._tolerance = Fraction(str(task.tolerance))

    def check(self, item: Item) -> None:
        """Raise InputError for a reference without a number."""
        if _value(item.reference) is None:
            raise InputError(
                f"reference {shown(item.reference)!r} holds no number, which task numeric needs; "
                "allowed: a text with one, last or behind ####"
            )

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        number, wanted = number_of(answer), _value(item.reference)
        if number is None or number.value is None:
            return Grade(FORMAT_FAILURE, 0.0, None if number is None else number.text, "no number")
        right = wanted is not None and abs(number.value - wanted) <= self._tolerance * abs(wanted)
        return right_or_wrong(right, number.text)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}


def number_of(text: str) -> Number | None:
    r"""The first number after the last `####`, else the last in a box or tags, else the last."""
    # An answer that is cut right behind a mark says nothing there.
    text = text.rstrip().removesuffix(HASHES)
    marked = None if HASHES in text else marked_answer(text)
    inside = None if marked is None else last_number(marked)
    return stated_number(text) if inside is None else inside


def _value(text: str) -> Fraction | None:
    number = number_of(text)
    return None if number is None else number.value
