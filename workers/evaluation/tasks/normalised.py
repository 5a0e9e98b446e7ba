"""Answers that are the reference but for what does not matter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from hpo.spec.errors import InputError
from hpo.spec.tasks import NormalisedTask
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import right_or_wrong, shown

MOST_MARKS = 30
_JOINER = "\u034f"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKS = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


class NormalisedGrader:
    """The normalised answer is the normalised reference; an empty one has no format."""

    categories: Sequence[str] = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
    cheap = True

    def __init__(self, task: NormalisedTask) -> None:
        self._task = task

    def check(self, item: Item) -> None:
        """Raise InputError for a reference of which nothing is left."""
        if not normalise(item.reference, self._task):
            raise InputError(
                f"reference {shown(item.reference)!r} is empty when normalised; "
                "allowed for task normalised: a text with letters or digits"
            )

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        written = normalise(answer, self._task)
        if not written:
            return Grade(FORMAT_FAILURE, 0.0, None, "empty")
        return right_or_wrong(written == normalise(item.reference, self._task), written)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}


def normalise(text: str, task: NormalisedTask) -> str:
    """A text without what the task ignores.

    Left out is punctuation of Unicode's categories P, as SQuAD's evaluation
    does (arXiv:1606.05250), but not where a number would become another one:
    in `1.5`, `1/2`, `10:30` and `-5`. The comma of `1,000` is left out.
    """
    text = _compatible(text).replace("\u2212", "-")
    if task.ignore_case:
        text = _compatible(text.casefold())
    if task.ignore_punctuation:
        text = _MARKS.sub(_kept, _THOUSANDS.sub("", text))
    if task.ignore_articles:
        text = _ARTICLES.sub(" ", text)
    return _SPACE.sub(" ", text).strip()


def _compatible(text: str) -> str:
    """NFKC in linear time.

    Putting combining marks in order takes the square of their number, so no
    more than 30 may follow each other, as in Unicode's stream-safe text format
    (UAX 15): a joiner parts them.
    """
    if text.isascii():
        return text
    marks, safe = 0, list[str]()
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MOST_MARKS:
            safe.append(_JOINER)
            marks = 1
        safe.append(character)
    return unicodedata.normalize("NFKC", "".join(safe))


def _kept(match: re.Match[str]) -> str:
    mark, text = match[0], match.string
    if unicodedata.category(mark)[0] != "P":
        return mark
    before = text[match.start() - 1 : match.start()]
    after = text[match.end() : match.end() + 1]
    sign = mark == "-" and not before.isalnum() and before != ")"
    return mark if after.isdigit() and (before.isdigit() or sign) else ""
