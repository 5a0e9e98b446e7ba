"""How grades are worded, alike in every grader."""

from __future__ import annotations

from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Grade

MOST_SHOWN = 400
"""Characters."""


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """A text cut to so many characters, the last of them an ellipsis where it was longer."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def right_or_wrong(right: bool, extracted: str) -> Grade:
    """The grade of an answer that has the right format."""
    if right:
        return Grade(CORRECT, 1.0, shown(extracted))
    return Grade(WRONG_ANSWER, 0.0, shown(extracted))
