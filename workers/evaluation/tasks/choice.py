"""The letter of a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hpo.spec.errors import InputError
from hpo.spec.tasks import ChoiceTask
from workers.answers.formulas import unwrapped
from workers.answers.marks import marked_answer
from workers.answers.scan import last_match
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import right_or_wrong, shown

_VERBS = "is|was|seems|would|because|as|since|and|or|but"
_NO_WORD = rf"(?!(?<=[AI])[ ](?!(?:{_VERBS})\b)[a-z])"


class ChoiceGrader:
    """The letter that an answer chooses is the one that the reference begins with."""

    categories: Sequence[str] = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
    cheap = True

    def __init__(self, task: ChoiceTask) -> None:
        self._letters = task.letters
        self._reader = LetterReader(task.letters)

    def check(self, item: Item) -> None:
        """Raise InputError for a reference that does not begin with a letter of a choice."""
        if self._wanted(item) is None:
            raise InputError(
                f"reference {shown(item.reference)!r} begins with no letter of a choice; "
                f"allowed for task choice: one of {', '.join(self._letters)}, perhaps with its text"
            )

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        letter = self._reader.chosen(answer)
        if letter is None:
            detail = f"none of {', '.join(self._letters)}"
            return Grade(FORMAT_FAILURE, 0.0, None, shown(detail))
        return right_or_wrong(letter == self._wanted(item), letter)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}

    def _wanted(self, item: Item) -> str | None:
        marked = marked_answer(item.reference)
        return self._reader.first(item.reference if marked is None else marked)


class LetterReader:
    """Finds the letter of a choice in a text."""

    def __init__(self, letters: str) -> None:
        # The article and the pronoun are no choices: `A dog`, `I think`.
        capital = rf"[{letters}](?![\w'\u2019]){_NO_WORD}"
        # A small letter is one only where it stands for itself, as in `b)`.
        letter = rf"(?P<letter>{capital}|[{letters.lower()}](?=\s{{0,2}}(?:[).:,\]}}*]|\Z)))"
        self._first = re.compile(rf"[\s(\[{{*_\"'$\\]{{0,8}}(?<![A-Za-z]){letter}")
        self._named = re.compile(
            r"(?i:answer|choice|option)(?i:\W{1,4}(?:is|be|are|the|choice|option|letter|correct)){0,4}"
            rf"(?:\W{{1,8}}){letter}"
        )
        self._any = re.compile(rf"(?<![\w'\u2019])(?P<letter>{capital})")

    def chosen(self, text: str) -> str | None:
        """The letter that an answer chooses.

        It is sought behind a mark (`####`, a box, `<answer>` tags), then after
        the last `answer`, `choice` or `option`, then at the beginning, and last
        as the last capital letter that stands alone.
        """
        marked = marked_answer(text)
        found = None if marked is None else self.first(marked)
        return found or _last(self._named, text) or self.first(text) or _last(self._any, text)

    def first(self, text: str) -> str | None:
        """The letter that a text begins with."""
        found = self._first.match(unwrapped(text))
        return None if found is None else found["letter"].upper()


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = last_match(pattern, text)
    return None if found is None else found["letter"].upper()
