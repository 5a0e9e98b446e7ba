"""One set's answers being graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from workers.evaluation.grading.jury import Jury
from workers.evaluation.tasks.task import Grade, Graded


class Grading:
    """Takes the answers of one checkpoint to one set, in any order, and gives their grades.

    Leaving the context abandons what has no grade yet: what is with a judge is
    finished there and forgotten, the rest is never asked.
    """

    def __init__(self, items: int, jury: Jury) -> None:
        self._jury = jury
        self._submitted: set[tuple[int, int]] = set()
        self._grades: list[dict[int, Grade]] = [{} for _ in range(items)]
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Abandon what has no grade yet."""
        self._over = True
        self._jury.close()

    @property
    def categories(self) -> Sequence[str]:
        """All categories that the grader gives, the right one first."""
        return self._jury.categories

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """What the task measures of the whole set besides the accuracy, by name.

        `graded` are all items of the set, in order. Raises ValueError for another
        number of items, and InputError or
        GradersUnavailable when there is nobody to judge.
        """
        number = len(self._grades)
        if len(graded) != number:
            raise ValueError(f"{len(graded)} graded items; allowed: the {number} of the set")
        return self._jury.measures(graded)

    def submit(self, index: int, sample: int, answer: str) -> None:
        """Have an answer to an item graded; never waits for a judge.

        Raises ValueError for an item that is not in the set or an answer that was
        submitted before, and RuntimeError once the grading is over.
        """
        self._require_new(index, sample)
        self._submitted.add((index, sample))
        grade = self._jury.submit(index, sample, answer)
        if grade is not None:
            self._grades[index][sample] = grade

    def grades(self, on_progress: Callable[[], None] | None = None) -> list[list[Grade]]:
        """Wait for the grades of all submitted answers, by item and sample.

        An item without answers has no grades. `on_progress` is called after each
        grade and at least once a second, as every answer has its time limit; what
        it raises ends the grading.

        Raises InputError or GradersUnavailable when there is nobody to judge,
        RuntimeError when the grading is over, and ValueError when an item lacks a
        sample before its last.
        """
        self._require_open()
        try:
            while self._jury.pending:
                self._take(self._jury.next())
                if on_progress is not None:
                    on_progress()
        except BaseException:
            self.close()
            raise
        return [_in_order(index, found) for index, found in enumerate(self._grades)]

    def _take(self, graded: tuple[int, int, Grade] | None) -> None:
        if graded is not None:
            index, sample, grade = graded
            self._grades[index][sample] = grade

    def _require_new(self, index: int, sample: int) -> None:
        self._require_open()
        number = len(self._grades)
        if not 0 <= index < number or sample < 0:
            raise ValueError(f"item {index}, sample {sample}: the set has {number} items")
        if (index, sample) in self._submitted:
            raise ValueError(f"item {index}, sample {sample} was submitted before")

    def _require_open(self) -> None:
        if self._over:
            raise RuntimeError("the grading of this set is over; begin another")


def _in_order(index: int, found: dict[int, Grade]) -> list[Grade]:
    if found and max(found) >= len(found):
        raise ValueError(f"item {index} has answers for the samples {sorted(found)} only")
    return [found[sample] for sample in range(len(found))]
