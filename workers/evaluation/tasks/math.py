r"""Mathematical answers: found behind their mark, compared as numbers, texts or by math-verify."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from hpo.spec.errors import InputError
from hpo.spec.tasks import MathTask
from workers.answers.formulas import (
    has_words,
    kind_of,
    last_formula,
    quantity,
    undelimited,
    unwrapped,
)
from workers.answers.marks import marked_answer
from workers.answers.numbers import Number, same_number
from workers.answers.same import same_text
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import right_or_wrong, shown

MARKS = {"hashes": "####", "boxed": "\\boxed{}", "tag": "<answer></answer>"}
EMPHASIS = "*`#" + string.whitespace
"""Markdown's marks around an answer, or before it as a heading."""
MOST_CHARACTERS = 400
"""Of a final answer that is read as mathematics: a model that repeats itself writes more,
which would take math-verify seconds."""
_AROUND = "=,;:" + string.whitespace
_CONTENT = re.compile(r"\w")
_UNICODE = str.maketrans(
    {
        "\u2212": "-",
        "\u00d7": "\\times ",
        "\u00b7": "\\cdot ",
        "\u00f7": "\\div ",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u221a": "\\sqrt ",
        "\u00b2": "^2",
        "\u00b3": "^3",
    }
)


class MathGrader:
    """The final answer equals the reference's.

    Not cheap: math-verify takes some 30 ms and can take for ever.
    """

    categories: Sequence[str] = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
    cheap = False

    def __init__(self, task: MathTask) -> None:
        self._where = task.answer

    def check(self, item: Item) -> None:
        """Raise InputError for a reference in which nothing can be compared."""
        reference = reference_answer(item.reference)
        if not reference or (kind_of(reference) == "formula" and not _parsed(reference)):
            raise InputError(
                f"reference {shown(item.reference)!r} has no final answer that can be read; "
                "allowed for task math: a number, a formula or a word, bare, behind ####, "
                "in \\boxed{} or in <answer> tags"
            )

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer; it may take for ever, so in a process that can be killed."""
        reference = reference_answer(item.reference)
        stated = self._stated(answer, reference)
        if stated is None:
            return Grade(FORMAT_FAILURE, 0.0, None, self._missing())
        return right_or_wrong(is_same(reference, stated), stated)

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}

    def _stated(self, answer: str, reference: str) -> str | None:
        if self._where in ("hashes", "boxed", "tag"):
            marked = marked_answer(answer, self._where)
            return None if marked is None else essence(marked)
        marked = marked_answer(answer) if self._where == "any" else None
        return essence(marked) if marked is not None else _last(answer, reference)

    def _missing(self) -> str:
        if self._where in MARKS:
            return f"no answer marked by {MARKS[self._where]}"
        return "no formula and no number"


def reference_answer(reference: str) -> str:
    """The final answer of a reference: a marked one, else the whole text's or the last in it."""
    marked = marked_answer(reference)
    if marked is not None:
        return essence(marked)
    return _last(reference, reference) or reference.strip()


def essence(marked: str) -> str:
    """A marked answer without words around it, if it has a single formula or number."""
    marked = undelimited(marked.strip(EMPHASIS))
    if kind_of(marked) != "words":
        return marked
    found = last_formula(marked)
    alone = found is not None and last_formula(marked.rpartition(found)[0]) is None
    return found if found is not None and alone else marked


def is_same(reference: str, answer: str) -> bool:
    """Whether two final answers are equal: as texts, as numbers, else as mathematics.

    A number's unit and currency are passed over. With a percent sign it is
    itself or its hundredth: 50 % is 50 and 0.5. Words are equal but for case,
    space and LaTeX's text commands.
    """
    if same_text(_bare(reference), _bare(answer)):
        return True
    first, second = quantity(reference), quantity(answer)
    if first is not None and second is not None:
        return _same_quantity(first, second)
    if has_words(reference) or has_words(answer):
        return False
    return _equivalent(reference, answer)


def _last(text: str, reference: str) -> str | None:
    """The formula that a whole text is, else the last in it; without any the text itself.

    The text itself only where the reference has neither formula nor number.
    """
    bare = undelimited(text.strip(EMPHASIS).strip(_AROUND))
    if not _CONTENT.search(bare.translate(_UNICODE).replace("\\boxed", "")):
        return None
    if kind_of(bare) != "words":
        return bare
    found = last_formula(bare)
    if found is None and last_formula(reference) is None and kind_of(reference) == "words":
        return bare
    return found


def _bare(text: str) -> str:
    return unwrapped(text).strip(" $.")


def _same_quantity(first: Number, second: Number) -> bool:
    if first.value is None or second.value is None:
        return False
    return any(same_number(one, other) for one in _values(first) for other in _values(second))


def _values(number: Number) -> Iterator[Fraction]:
    if number.value is not None:
        yield number.value
        if number.percent:
            yield number.value / 100


def _equivalent(reference: str, answer: str) -> bool:
    if len(answer) > max(MOST_CHARACTERS, 2 * len(reference)):
        return False
    from math_verify import verify

    wanted, given = _parsed(reference), _parsed(answer)
    with _quiet():
        return bool(wanted and given and verify(wanted, given, timeout_seconds=None))


def _parsed(answer: str) -> list[object]:
    """What math-verify makes of an answer; empty where it makes nothing of it."""
    # Imported here: it takes the better part of a second.
    from math_verify import LatexExtractionConfig, parse

    boxed = f"\\boxed{{{answer.translate(_UNICODE)}}}"
    config = LatexExtractionConfig(boxed_match_priority=0)
    with _quiet():
        # Its own time limit works by a signal: in the main thread only, and
        # what runs out of time would count as not equal.
        found: list[Any] = parse(boxed, extraction_config=[config], parsing_timeout=None)
    return [one for one in found if not isinstance(one, str)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without math-verify's warning that its time limit is off."""
    logger = logging.getLogger("math_verify")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
