"""Questions to the judges of one set, and their replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hpo.spec.errors import InputError
from workers.evaluation.grading.errors import GradersUnavailable
from workers.evaluation.grading.judges import Judges
from workers.evaluation.grading.messages import Question, Reply
from workers.evaluation.tasks.task import Graded

_LOOK_SECONDS = 1.0
_MEASURED_SECONDS = 0.1
"""Time that an answer adds to measuring a set: far more than it takes."""


@dataclass(frozen=True)
class AssignedSet:
    """A set that the judges know."""

    judges: Judges
    number: int
    seconds: float
    """Longest time that one question may take."""


class Inquiry:
    """What one asker wants to know; no reply ever reaches another one."""

    def __init__(self, assigned: AssignedSet) -> None:
        self._assigned = assigned
        self._judges = assigned.judges
        self._number = self._judges.number()
        self._open: dict[int, tuple[int, int]] = {}
        self._arrived: deque[tuple[int, int, Reply]] = deque()

    def ask(
        self,
        index: int,
        sample: int = 0,
        answer: str | None = None,
        graded: Sequence[Graded] = (),
    ) -> None:
        """Ask about an item: of an answer, of the item alone, or of the whole set."""
        ticket = self._judges.number()
        self._open[ticket] = index, sample
        seconds = self._assigned.seconds + len(graded) * _MEASURED_SECONDS
        question = Question(ticket, index, answer, graded)
        self._judges.ask(self._assigned.number, self._number, seconds, question, self._take)

    @property
    def open(self) -> bool:
        """Whether something has no reply yet that was taken by `next`."""
        return bool(self._open or self._arrived)

    def next(self, seconds: float = _LOOK_SECONDS) -> tuple[int, int, Reply] | None:
        """Item, sample and reply; None when there was none in `seconds`.

        Raises InputError or GradersUnavailable when no judge can reply.
        """
        if not self._arrived:
            self._judges.wait(seconds)
        if not self._arrived:
            return None
        index, sample, reply = self._arrived.popleft()
        if reply.unable is not None:
            raise (InputError if reply.given else GradersUnavailable)(reply.unable)
        return index, sample, reply

    def wait(self) -> tuple[int, int, Reply]:
        """Item, sample and reply; every question has its time limit.

        Raises InputError or GradersUnavailable when no judge can reply.
        """
        while True:
            taken = self.next()
            if taken is not None:
                return taken

    def close(self) -> None:
        """Want no more replies."""
        if self._open:
            self._judges.forget(self._number, list(self._open))
            self._open.clear()

    def _take(self, reply: Reply) -> None:
        self._arrived.append((*self._open.pop(reply.ticket), reply))
