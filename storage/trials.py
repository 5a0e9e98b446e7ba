"""Who trains which trial: budget slots, leases and attempts.

A trial is one number of Optuna's from ask to tell. A worker holds it by a
lease that it renews on progress. When the lease runs out, or is given back,
any worker continues the trial as a new attempt with the next fencing number,
and whatever the former holder still tries to write is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hpo.spec.errors import StudyError
from storage.attempts import AttemptRow, attempts_of, end_attempt, start_attempt
from storage.database import AdvisoryLock, Database
from storage.errors import LeaseLost
from storage.leases import expire, expiry, live
from storage.listen import notify
from storage.schema import evaluation, study, trial


@dataclass(frozen=True)
class TrialLease:
    """A worker's hold on a trial."""

    id: int
    """The budget slot."""
    study_id: int
    trial_id: int
    """Optuna's trial id."""
    number: int
    fence: int
    """The fencing number; also the ordinal of the attempt, from 1."""
    worker_id: str
    state_address: str | None
    """Checkpoint address of the training state to resume from."""
    state_step: int


@dataclass(frozen=True)
class TrialRow:
    """A trial for display."""

    id: int
    trial_id: int
    number: int
    state: str
    worker_id: str | None
    """Who holds it now."""
    attempts: int
    step: int
    """The step of the last saved training state."""
    outcome: str | None
    message: str | None
    created_at: datetime
    finished_at: datetime | None


class TrialLeases:
    """The trials of one study; `seconds` is how long a lease lasts without renewal.

    Methods that take `within` write through that connection, the one that
    `guard` gave; without it, in a transaction of their own. Inside a `guard`
    the connection must be passed: another one would wait for the guard's lock.
    """

    def __init__(self, database: Database, study_id: int, *, seconds: float) -> None:
        self._engine = database.engine
        self._study_id = study_id
        self._seconds = seconds

    def acquire(
        self,
        worker_id: str,
        *,
        budget: int,
        orphans: Callable[[], list[tuple[int, int]]],
        ask: Callable[[], tuple[int, int]],
    ) -> TrialLease | None:
        """Lease a trial: one to continue, else an orphan, else a new one within the budget.

        `budget` counts all trials of the study, finished ones too. `orphans`
        lists Optuna's running trials as (trial id, number): one without a
        budget slot lost its worker between ask and lease. `ask` makes a new
        one. Both run under the study's lock, so that nobody else asks
        meanwhile; when one raises, nothing of ours is left behind.

        Returns None when there is nothing to do or a stop was requested.
        Raises StudyError when the study is gone.
        """
        with self._engine.begin() as connection:
            AdvisoryLock.TRIALS.take(connection, self._study_id)
            if self._stop_requested(connection):
                return None
            lease = self._take_over(connection, worker_id)
            if lease is not None or self._count(connection) >= budget:
                return lease
            adopted = self._first_orphan(connection, orphans())
            return self._reserve(connection, worker_id, *(adopted or ask()))

    def renew(self, lease: TrialLease) -> None:
        """Hold on for another period. Raises LeaseLost."""
        self._write(lease, None, lease_expires_at=expiry(self._seconds))

    @contextmanager
    def guard(self, lease: TrialLease) -> Iterator[Connection]:
        """A transaction during which nobody can take the trial over.

        What is written inside, also through other connections such as
        Optuna's, is written by the holder. Raises LeaseLost.
        """
        with self._engine.begin() as connection:
            lock_held(connection, lease)
            yield connection

    def save_state(
        self, lease: TrialLease, address: str, step: int, *, within: Connection | None = None
    ) -> None:
        """Remember where the next attempt resumes. Raises LeaseLost."""
        self._write(lease, within, state_address=address, state_step=step)

    def release(
        self, lease: TrialLease, message: str | None = None, *, attempt: str = "suspended"
    ) -> None:
        """End the attempt, not the trial: any worker may continue it at once.

        `attempt` is the attempt's outcome: suspended, interrupted or failed.
        Raises LeaseLost.
        """
        with self._engine.begin() as connection:
            self._write(lease, connection, worker_id=None, lease_expires_at=None)
            end_attempt(connection, lease.id, attempt, message)
            notify(connection, self._study_id)

    def finish(
        self,
        lease: TrialLease,
        outcome: str,
        message: str | None = None,
        *,
        within: Connection | None = None,
    ) -> None:
        """End the trial with its outcome. Raises LeaseLost."""
        if within is None:
            with self._engine.begin() as connection:
                self.finish(lease, outcome, message, within=connection)
            return
        self._write(
            lease,
            within,
            state="finished",
            outcome=outcome,
            message=message,
            finished_at=sa.func.clock_timestamp(),
            worker_id=None,
            lease_expires_at=None,
        )
        end_attempt(within, lease.id, "finished", message)
        notify(within, self._study_id)

    def release_worker(self, worker_id: str) -> int:
        """Free at once what a worker held that is known to be dead; how much it was."""
        with self._engine.begin() as connection:
            return sum(
                expire(connection, table, self._study_id, [worker_id])
                for table in (trial, evaluation)
            )

    def unfinished(self) -> int:
        """Number of trials that have not ended."""
        with self._engine.connect() as connection:
            return self._count(connection, trial.c.state == "running")

    def count(self) -> int:
        """Number of budget slots in use, by finished trials too."""
        with self._engine.connect() as connection:
            return self._count(connection)

    def rows(self) -> list[TrialRow]:
        """All trials by number."""
        holder = sa.case((live(trial), trial.c.worker_id))
        statement = (
            sa.select(
                *(trial.c[name] for name in ("id", "trial_id", "number", "state", "outcome")),
                *(trial.c[name] for name in ("message", "created_at", "finished_at")),
                holder.label("worker_id"),
                trial.c.fence.label("attempts"),
                trial.c.state_step.label("step"),
            )
            .where(trial.c.study_id == self._study_id)
            .order_by(trial.c.number)
        )
        with self._engine.connect() as connection:
            return [TrialRow(**row._mapping) for row in connection.execute(statement)]

    def attempts(self, number: int) -> list[AttemptRow]:
        """All attempts of one trial, in order."""
        with self._engine.connect() as connection:
            return attempts_of(connection, self._study_id, number)

    def _stop_requested(self, connection: Connection) -> bool:
        statement = sa.select(study.c.stop_requested).where(study.c.id == self._study_id)
        stopped: bool | None = connection.scalar(statement)
        if stopped is None:
            raise StudyError(f"there is no study with id {self._study_id}")
        return stopped

    def _count(self, connection: Connection, *conditions: sa.ColumnElement[bool]) -> int:
        statement = sa.select(sa.func.count()).where(
            trial.c.study_id == self._study_id, *conditions
        )
        return connection.scalar(statement) or 0

    def _take_over(self, connection: Connection, worker_id: str) -> TrialLease | None:
        """Lease the first trial that nobody holds, as a new attempt."""
        claimable = (
            sa.select(trial.c.id)
            .where(trial.c.study_id == self._study_id, trial.c.state == "running")
            .where(~live(trial))
            .order_by(trial.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        statement = (
            sa.update(trial)
            .where(trial.c.id == claimable)
            .values(
                fence=trial.c.fence + 1,
                worker_id=worker_id,
                lease_expires_at=expiry(self._seconds),
            )
            .returning(trial)
        )
        row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        end_attempt(connection, row.id, "lost", None)
        return _lease(connection, row)

    def _first_orphan(
        self, connection: Connection, running: list[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """Optuna's running trial of the lowest number that has no budget slot."""
        known = set(
            connection.scalars(
                sa.select(trial.c.trial_id).where(trial.c.study_id == self._study_id)
            )
        )
        missing = [pair for pair in running if pair[0] not in known]
        return min(missing, key=lambda pair: pair[1], default=None)

    def _reserve(
        self, connection: Connection, worker_id: str, trial_id: int, number: int
    ) -> TrialLease:
        statement = (
            sa.insert(trial)
            .values(
                study_id=self._study_id,
                trial_id=trial_id,
                number=number,
                worker_id=worker_id,
                lease_expires_at=expiry(self._seconds),
            )
            .returning(trial)
        )
        lease = _lease(connection, connection.execute(statement).one())
        notify(connection, self._study_id)
        return lease

    def _write(self, lease: TrialLease, within: Connection | None, **values: Any) -> None:
        """Change the trial's row if the lease is the current one."""
        if within is None:
            with self._engine.begin() as connection:
                self._write(lease, connection, **values)
            return
        statement = sa.update(trial).where(_held_by(lease)).values(**values)
        if within.execute(statement).rowcount == 0:
            raise _lost(lease)


def lock_held(connection: Connection, lease: TrialLease) -> None:
    """Keep others from taking the trial until the transaction ends. Raises LeaseLost."""
    # A shared lock: two transactions of the holder do not wait for each other.
    statement = sa.select(trial.c.id).where(_held_by(lease)).with_for_update(read=True)
    if connection.execute(statement).one_or_none() is None:
        raise _lost(lease)


def _held_by(lease: TrialLease) -> sa.ColumnElement[bool]:
    # A lease that ran out is still good as long as nobody took over.
    return sa.and_(
        trial.c.id == lease.id,
        trial.c.fence == lease.fence,
        trial.c.worker_id == lease.worker_id,
        trial.c.state == "running",
    )


def _lost(lease: TrialLease) -> LeaseLost:
    return LeaseLost(f"attempt {lease.fence} of trial {lease.number} is over")


def _lease(connection: Connection, row: Row[Any]) -> TrialLease:
    """The row's worker holds the trial from now on, as a new attempt."""
    start_attempt(connection, row.id, row.fence, row.worker_id)
    return TrialLease(**{name: row._mapping[name] for name in TrialLease.__dataclass_fields__})
