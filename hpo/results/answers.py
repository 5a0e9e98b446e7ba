"""The graded answers of a study, read back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpo.results.comparison import Side
from hpo.search.graded import (
    StoredAnswers,
    StoredItem,
    answer_rows,
    in_order,
    row_line,
    unpack_answers,
    unpack_set,
)
from hpo.spec.errors import InputError, OutputError, StudyError
from storage.answers import AnswerStore
from storage.records import EvaluationRecord


@dataclass(frozen=True)
class GradedAnswers:
    """The items of a set and one evaluation's answers to them."""

    items: list[StoredItem]
    answers: list[StoredAnswers]

    def of(self, item: int) -> StoredAnswers | None:
        """The answers to one item."""
        return next((answers for answers in self.answers if answers.item == item), None)

    def chosen(self, category: str | None, item: int | None) -> list[StoredAnswers]:
        """The answers to one item, or to those with an answer of a category, or all.

        Raises InputError for an item or a category that is not there.
        """
        if item is not None and not 0 <= item < len(self.items):
            raise InputError(f"--item: given {item}; allowed: 0 to {len(self.items) - 1}")
        found = [answers for answers in self.answers if item is None or answers.item == item]
        if category is None:
            return found
        known = {sample.category for answers in self.answers for sample in answers.samples}
        if category not in known:
            allowed = ", ".join(in_order(known))
            raise InputError(f"--category: given {category!r}; allowed: {allowed}")
        return [answers for answers in found if category in answers.categories]

    def rows(self) -> Iterator[bytes]:
        """A line of JSON per answer."""
        return map(row_line, answer_rows(self.items, self.answers))


def require_answers(store: AnswerStore, chosen: Side | None) -> GradedAnswers:
    """The graded answers of an evaluation. Raises StudyError when there are none."""
    if chosen is None:
        raise StudyError("there are no graded answers: nothing was evaluated")
    found = read_answers(store, chosen.record)
    if found is None:
        raise StudyError(
            f"no graded answers of {chosen.name} are stored: the study has no generation set, "
            "evaluation.answers_kib is 0 or too little, or an earlier version scored it"
        )
    return found


def read_answers(store: AnswerStore, record: EvaluationRecord) -> GradedAnswers | None:
    """What was stored of an evaluation's answers; None where nothing was."""
    packed = store.answers(record.id)
    items = store.get_set(record.test)
    if packed is None or items is None:
        return None
    return GradedAnswers(unpack_set(items.items), unpack_answers(packed))


def save_rows(answers: GradedAnswers, file: Path) -> int:
    """Write all answers as lines of JSON, whole or not at all; how many lines.

    Raises OutputError when the file cannot be written.
    """
    partial = file.parent / f".{file.name}.{os.getpid()}.partial"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            number = 0
            for line in answers.rows():
                stream.write(line)
                number += 1
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(
            f"the answers cannot be written to {file}: {error.strerror}; choose another --save"
        ) from error
    return number
