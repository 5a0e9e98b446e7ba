"""A trial's evaluations: asked for, answered by another process, decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.search.asha import Verdict
from hpo.search.course import Ending, Point, best_point, decide
from storage.checkpoints import Kind
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
    _records: list[EvaluationRecord] = field(default_factory=list)
    _verdicts: dict[int, Verdict] = field(default_factory=dict)
    _announced: int = 0
    _stale: bool = True
    _changed: bool = True

    def put(
        self,
        *,
        step: int,
        examples: int,
        rung: int | None,
        kind: Kind,
        fill: Callable[[Path], None],
    ) -> None:
        """Write a checkpoint and ask for its evaluation.

        A step that was asked for in an earlier attempt is not asked again.
        """
        wanted = {record.step for record in self._read() if record.state in ASKED}
        if step in wanted:
            return
        address = f"{attempt_folder(self.lease)}/step-{step:08d}"
        self.session.checkpoints.write(address, fill, kind=kind, step=step, examples=examples)
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
        for point in points[self._announced :]:
            self.on_point(point)
        self._announced = max(self._announced, len(points))
        return decide(points, self.session.spec, last_step=last_step, judge=self._judge)

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
            self._records = self.session.queue.for_trial(self.lease.number)
            self._stale, self._changed = False, True
        return self._records

    def _answered(self) -> Iterator[Point]:
        for record in self._read():
            if record.state not in ("done", "failed"):
                return
            yield _point(record)

    def _judge(self, rung: int, value: float) -> Verdict:
        if rung not in self._verdicts:
            with self.session.trials.guard(self.lease):
                self._verdicts[rung] = self.session.search.verdict(self.lease.trial_id, rung, value)
        return self._verdicts[rung]


def attempt_folder(lease: TrialLease) -> str:
    """Address below which one attempt of a trial keeps its checkpoints."""
    return f"{trial_folder(lease.number)}/attempt-{lease.fence}"


def trial_folder(number: int) -> str:
    """Address below which a trial keeps everything."""
    return f"trial-{number:05d}"


def _point(record: EvaluationRecord) -> Point:
    metrics: dict[str, Any] = record.result or {}
    error = record.error if record.state == "failed" else None
    return Point(record.step, record.examples, record.rung, record.checkpoint, metrics, error)
