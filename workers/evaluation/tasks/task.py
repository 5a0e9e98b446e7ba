"""What a task is: items with references, and a grader that judges answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CORRECT, WRONG_ANSWER, FORMAT_FAILURE = "correct", "wrong_answer", "format_failure"
NOT_GRADABLE = "not_gradable"
"""The grader failed or took too long; the answer counts as wrong."""
NOT_ASKED = "not_asked"
"""The prompt fills the model's window; the item counts as wrong."""


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a set, with what its answers are graded against."""

    prompt: str
    """As the model reads it."""
    reference: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the row that the task asks for; what is no text there is JSON here."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values of the fields by which the accuracy is broken down."""


@dataclass(frozen=True, slots=True)
class Grade:
    """The judgement of one answer."""

    category: str
    """One of the grader's, or `not_gradable` or `not_asked`."""
    score: float
    """From 0 to 1; 1 is right."""
    extracted: str | None = None
    """What was taken for the final answer; None where nothing was found."""
    detail: str = ""
    """Why, in a few words, or the end of an error's text."""


@dataclass(frozen=True, slots=True)
class Graded:
    """An item with its answers and their grades, as many as there are samples."""

    item: Item
    answers: Sequence[str]
    grades: Sequence[Grade]


class Grader(Protocol):
    """Judges answers. Pure: the same answer gets the same grade in any process."""

    @property
    def categories(self) -> Sequence[str]:
        """All categories that it gives, the right one first, as people are shown them."""

    @property
    def cheap(self) -> bool:
        """Whether judging an answer of any kind takes microseconds and cannot hang."""

    def check(self, item: Item) -> None:
        """Raise InputError for an item that no answer could be graded against."""

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer. Any text is allowed; an odd one has a category."""

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """What the task measures of a whole set besides the accuracy, by name."""
