"""A trial's evaluations: asked for, answered by another process, decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hpo.search.asha import Verdict
from hpo.search.course import Ending, Point, best_point, decide
from storage.records import EvaluationRecord
from storage.trials import TrialLease
from workers.session import StudySession

MOST_OPEN = 2
"""Requests of one trial that may be open; with more, training waits."""
ASKED = ("open", "claimed", "done")
"""States of a request that need not be put again."""
POLL_SECONDS = 1.0
"""How long a missed notification can go unnoticed."""


@dataclass
class Evaluations:
    """The evaluations of one attempt, read back from the database.

    Nothing about the past is kept in memory that the database could not give
    back: a new attempt sees the same points and comes to the same end.
    """

    session: StudySession
    lease: TrialLease
    on_point: Callable[[Point], None]
    """Called once per answered evaluation and attempt, in order."""
    on_undecided: Callable[[], None]
    """Called when new answers have not ended the trial."""
    _records: list[EvaluationRecord] = field(default_factory=list)
    _verdicts: dict[int, Verdict] = field(default_factory=dict)
    _announced: int = 0
    _stale: bool = True
    _changed: bool = True

    def wanted(self, step: int) -> bool:
        """Whether a step's evaluation is still to be asked for.

        One that was asked for in an earlier attempt is not asked again.
        """
        return all(record.step != step or record.state not in ASKED for record in self._read())

    def ask(self, step: int, examples: int, rung: int | None) -> None:
        """Ask for the evaluation of the checkpoint that was published for a step.

        Any thread may call it: it only writes to the database.
        """
        address = checkpoint_address(self.lease, step)
        self.session.queue.put(
            self.lease, step=step, examples=examples, rung=rung, checkpoint=address
        )
        self._stale = True

    def ending(self, last_step: int) -> Ending | None:
        """What the answers decide; cheap while nothing new has come."""
        points = self.points()
        if not self._changed:
            return None
        self._changed = False
        ending = decide(points, self.session.spec, last_step=last_step, judge=self._judge)
        news = points[self._announced :]
        for point in news:
            self.on_point(point)
        self._announced = max(self._announced, len(points))
        # An ending's best may be older than the best of all that was answered.
        if news and ending is None:
            self.on_undecided()
        return ending

    def pending(self) -> int:
        """Requests without an answer."""
        return sum(record.state in ("open", "claimed") for record in self._read())

    def wait(self) -> None:
        """Wait for news, a second at most, and renew the trial's lease."""
        self.session.listener.wait(POLL_SECONDS)
        self._stale = True
        self.session.trials.renew(self.lease)

    def best(self) -> Point | None:
        """The best answered evaluation so far."""
        return best_point(self.points(), self.session.spec)

    def points(self) -> list[Point]:
        """Answered evaluations by step, up to the first without an answer."""
        return list(self._answered())

    def _read(self) -> list[EvaluationRecord]:
        if self.session.listener.poll():
            self._stale = True
        if self._stale:
            # Before the query: what is asked for meanwhile makes it stale again.
            self._stale, self._changed = False, True
            self._records = self.session.queue.for_trial(self.lease.number)
        return self._records

    def _answered(self) -> Iterator[Point]:
        for record in self._read():
            if record.state not in ("done", "failed"):
                return
            yield point_of(record)

    def _judge(self, rung: int, value: float) -> Verdict:
        if rung not in self._verdicts:
            with self.session.trials.guard(self.lease):
                self._verdicts[rung] = self.session.search.verdict(self.lease.trial_id, rung, value)
        return self._verdicts[rung]


def attempt_folder(lease: TrialLease) -> str:
    """Address below which one attempt of a trial keeps its checkpoints."""
    return f"{trial_folder(lease.number)}/attempt-{lease.fence}"


def checkpoint_address(lease: TrialLease, step: int) -> str:
    """Address of the weights that one attempt of a trial had after a step."""
    return f"{attempt_folder(lease)}/step-{step:08d}"


def state_address(lease: TrialLease, step: int) -> str:
    """Address of the training state that one attempt of a trial had after a step."""
    return f"{attempt_folder(lease)}/state-{step:08d}"


def trial_folder(number: int) -> str:
    """Address below which a trial keeps everything."""
    return f"trial-{number:05d}"


def point_of(record: EvaluationRecord) -> Point:
    """An answered request as what decisions are made on."""
    metrics: dict[str, Any] = record.result or {}
    error = record.error if record.state == "failed" else None
    return Point(record.step, record.examples, record.rung, record.checkpoint, metrics, error)
