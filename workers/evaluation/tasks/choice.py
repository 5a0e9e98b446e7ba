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

# Letters that a choice's may not stand beside; Chinese and Japanese use no spaces.
_LATIN = r"0-9A-Za-z_\u00c0-\u024f\u0370-\u052f'\u2019"
# Not across the end of a sentence: `B is the answer. A is wrong.`
_GAP = r"(?:(?![.!?;]\s)\W)"
_LINKS = "is|be|are|the|choice|option|letter|correct"
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
        capital = rf"[{letters}](?![{_LATIN}]){_NO_WORD}"
        # A small letter is one only where it stands for itself, as in `b)`.
        letter = rf"(?P<letter>{capital}|[{letters.lower()}](?=\s{{0,2}}(?:[).:,\]}}*]|\Z)))"
        linked = rf"(?i:{_GAP}{{1,4}}(?:{_LINKS})){{0,4}}{_GAP}{{1,8}}{letter}"
        self._first = re.compile(rf"[\s(\[{{*_\"'$\\]{{0,8}}(?<![A-Za-z]){letter}")
        # An explanation names other options after the answer: the plainest words count first.
        self._named = (
            re.compile(rf"(?i:answer){linked}"),
            re.compile(rf"(?i:choice|option){_GAP}{{1,4}}(?i:is|be|are){linked}"),
            re.compile(
                rf"(?<![{_LATIN}])(?P<letter>[{letters}])[)\]*]{{0,3}} is (?:the )?"
                r"(?i:correct|right|best)"
            ),
            re.compile(rf"(?i:choice|option){linked}"),
        )
        self._any = re.compile(rf"(?<![{_LATIN}])(?P<letter>{capital})")

    def chosen(self, text: str) -> str | None:
        """The letter that an answer chooses.

        It is sought behind a mark (`####`, a box, `<answer>` tags), then after the
        last `answer`, then after the last `option is` or `choice is` or before the
        last `is correct`, then after the last `option` or `choice` alone, then at
        the beginning, and last as the last capital letter that stands alone.
        """
        marked = marked_answer(text)
        found = None if marked is None else self.first(marked)
        named = found or next(filter(None, (_last(way, text) for way in self._named)), None)
        return named or self.first(text) or _last(self._any, text)

    def first(self, text: str) -> str | None:
        """The letter that a text begins with."""
        found = self._first.match(unwrapped(text))
        return None if found is None else found["letter"].upper()


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = last_match(pattern, text)
    return None if found is None else found["letter"].upper()
