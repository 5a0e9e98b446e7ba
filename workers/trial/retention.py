"""Which checkpoints stay on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpo.search.course import Point, best_point
from hpo.spec.errors import HpoError
from hpo.spec.study import Checkpoints, StudySpec
from storage.checkpoints import Draft, Stored
from storage.database import AdvisoryLock
from storage.records import EvaluationRecord
from storage.trials import TrialRow
from workers.session import StudySession
from workers.trial.evaluations import MOST_OPEN, Evaluations, point_of, trial_folder

GIB = 1 << 30
PLACE = re.compile(r"trial-(\d+)/attempt-(\d+)/(?:(state|step)-(\d+))?.*")


class DiskBudgetExceeded(HpoError):
    """What is needed on disk is more than the study may take."""


def surviving(evaluated: Sequence[str], best: str | None, rule: Checkpoints) -> set[str]:
    """Which of a trial's evaluated checkpoints, oldest first, a study's rule keeps.

    `best` is the one that must stay, if there is one; it counts towards
    `total_limit`, and the others that stay are the youngest.
    """
    number = len(evaluated) if rule.keep == "all" else rule.keep_last
    others = [address for address in _last(evaluated, number) if address != best]
    if rule.total_limit is not None:
        others = _last(others, rule.total_limit - (best is not None))
    return {*others} if best is None else {*others, best}


def thin_out(session: StudySession, evaluations: Evaluations) -> None:
    """Delete those of a running trial's evaluated checkpoints that the study does not keep."""
    best = evaluations.best()
    evaluated = [p.checkpoint for p in evaluations.points() if p.checkpoint is not None]
    kept = surviving(evaluated, best.checkpoint if best else None, session.spec.checkpoints)
    needed = kept | session.queue.pinned()
    for address in evaluated:
        if address not in needed:
            session.checkpoints.delete(address)


def clean_up(session: StudySession) -> None:
    """Delete what no trial needs any more.

    Left are the checkpoint of the study's best trial, those that requests pin,
    what the study keeps of each trial, and everything of trials that still run.
    """
    # In this order: what is read later may only spare more of what was listed.
    folders = session.checkpoints.folders()
    ended = {trial_folder(row.number) for row in session.trials.rows() if row.state == "finished"}
    keep = session.queue.pinned() | _kept_of_ended(session)
    for folder in folders:
        if folder in ended:
            kept = [address for address in keep if address.startswith(f"{folder}/")]
            session.checkpoints.keep_only(folder, kept)


def _kept_of_ended(session: StudySession) -> set[str]:
    """What the study's rule keeps of its trials, as if all had ended."""
    rule = session.spec.checkpoints
    best = session.search.best_checkpoint()
    kept = set() if best is None else {best}
    if rule.keep == "best" and not rule.keep_last:
        return kept
    evaluated: dict[int, list[str]] = {}
    for record in session.queue.evaluated():
        evaluated.setdefault(record.number, []).append(record.checkpoint)
    bests = session.search.best_checkpoints() if rule.keep == "all" else {}
    for number, addresses in evaluated.items():
        own = best if best in addresses else bests.get(number)
        kept |= surviving(addresses, own if own in addresses else None, rule)
    return kept


@dataclass(frozen=True)
class DiskBudget:
    """The room that a study's checkpoints may take together, whoever writes them."""

    session: StudySession

    def draft(self, address: str, size: int) -> Draft:
        """Begin a checkpoint of `size` bytes, once there is room for it.

        The oldest that nothing needs go first. Raises DiskBudgetExceeded when
        the rest leaves too little room.
        """
        limit = self.session.spec.checkpoints.disk_budget_gib
        if limit is None:
            return self.session.checkpoints.draft(address)
        # One at a time: what one worker finds free another must not take.
        with self.session.database.engine.begin() as connection:
            AdvisoryLock.CHECKPOINTS.take(connection, self.session.record.id)
            self._make_room(address, size, int(limit * GIB))
            return self.session.checkpoints.draft(address, size)

    def _make_room(self, address: str, size: int, limit: int) -> None:
        stored = self.session.checkpoints.stored()
        used = sum(one.bytes for one in stored)
        if used + size <= limit:
            return
        for one in _unneeded(self.session, stored):
            self.session.checkpoints.delete(one.address)
            used -= one.bytes
            if used + size <= limit:
                return
        raise DiskBudgetExceeded(
            f"checkpoints.disk_budget_gib: given {limit / GIB:.4g}, of which {used / GIB:.3g} are "
            f"needed, too little for the {size / GIB:.3g} of {address}; allowed: more than "
            f"{(used + size) / GIB:.3g}; run the study again with that: it goes on where it was"
        )


def _unneeded(session: StudySession, stored: Sequence[Stored]) -> Iterator[Stored]:
    """What may go, the oldest first: nothing that is not known to be done with."""
    running = {row.number: row for row in session.trials.rows() if row.state == "running"}
    evaluated = {record.checkpoint for record in session.queue.evaluated()}
    needed = session.queue.pinned()
    best = session.search.best_checkpoint()
    if best is not None:
        needed.add(best)
    for number in running:
        needed |= _contenders(session.queue.for_trial(number), session.spec)
    for one in stored:
        place = PLACE.fullmatch(one.address)
        if place is None or one.address in needed:
            continue
        row = running.get(int(place[1]))
        if row is None or _is_past(row, place, answered=one.address in evaluated):
            yield one


def _is_past(row: TrialRow, place: re.Match[str], *, answered: bool) -> bool:
    """Whether a running trial is done with what lies at a place in its folder."""
    attempt, kind, step = int(place[2]), place[3], place[4]
    former = attempt < row.attempts
    if kind == "state":
        # The one that is younger than the recorded one will be recorded next.
        return int(step) != row.step if former else int(step) < row.step
    return former or answered


def _contenders(records: Sequence[EvaluationRecord], spec: StudySpec) -> set[str]:
    """Checkpoints that may turn out to be a running trial's best.

    Its worker may not have seen the last answers yet, and its verdict on an
    earlier one ends the trial there.
    """
    points: list[Point] = []
    for record in records:
        if record.state not in ("done", "failed"):
            break
        points.append(point_of(record))
    ends = range(max(0, len(points) - MOST_OPEN), len(points) + 1)
    bests = [best_point(points[:end], spec) for end in ends]
    return {best.checkpoint for best in bests if best is not None and best.checkpoint is not None}


def _last(items: Sequence[str], number: int) -> list[str]:
    return list(items[max(0, len(items) - number) :])
