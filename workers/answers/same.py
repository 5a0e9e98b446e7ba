"""Whether two final answers are the same, as data are cleaned by it.

Grading asks math-verify besides, passes over units, and takes `50%` for 0.5
too (`workers.evaluation.tasks.math`). Data are not held to that: there a known
answer is compared with millions of completions, and what is not plainly the
same is better dropped.
"""

from __future__ import annotations

from workers.answers.numbers import as_number, same_number


def same_text(one: str, other: str) -> bool:
    """Whether two texts are equal but for case and space."""
    return _squeezed(one) == _squeezed(other)


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are equal as texts, but for case and space, or as numbers."""
    if same_text(one, other):
        return True
    first, second = as_number(one), as_number(other)
    return first is not None and second is not None and same_number(first, second)


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()
