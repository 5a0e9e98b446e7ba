"""Asking a grader, whatever it does short of hanging."""

from __future__ import annotations

from math import isfinite

from hpo.spec.errors import HpoError
from workers.evaluation.sandbox.run import SandboxError
from workers.evaluation.tasks.task import NOT_ASKED, NOT_GRADABLE, Grade, Grader, Item

_LONGEST_REASON = 500


def judged(grader: Grader, item: Item, answer: str) -> Grade:
    """The grade, or `not_gradable` with the reason from a grader that fails.

    Raises MemoryError, which may be the fault of what was graded before, and
    SandboxError, which says nothing about the answer.
    """
    try:
        return _possible(grader.grade(item, answer), grader)
    except (MemoryError, SandboxError):
        raise
    except (Exception, SystemExit) as error:
        return not_gradable(reason(error))


def refusal(grader: Grader, item: Item) -> str | None:
    """Why no answer could be graded against an item; None where one could."""
    try:
        grader.check(item)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        return reason(error)
    return None


def not_gradable(why: str) -> Grade:
    """The grade of an answer that its grader failed on."""
    return Grade(NOT_GRADABLE, 0.0, detail=why)


def reason(error: BaseException) -> str:
    """An error in words: as it is where it is meant for people, else with its type."""
    text = str(error)[-_LONGEST_REASON:]
    return text if isinstance(error, HpoError) and text else f"{type(error).__name__}: {text}"


def _possible(grade: Grade, grader: Grader) -> Grade:
    if not (isfinite(grade.score) and 0 <= grade.score <= 1):
        return not_gradable(f"the grader gave the score {grade.score}; allowed: 0 to 1")
    allowed = (*grader.categories, NOT_GRADABLE, NOT_ASKED)
    if grade.category not in allowed:
        named = ", ".join(allowed)
        return not_gradable(f"the grader gave the category {grade.category!r}; allowed: {named}")
    return grade
