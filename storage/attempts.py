"""Attempts of a trial: who held it, from when to when, and how that ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from storage.schema import attempt, trial


@dataclass(frozen=True)
class AttemptRow:
    """One worker's hold on a trial, past or present."""

    fence: int
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    message: str | None


def start_attempt(connection: Connection, trial_row_id: int, fence: int, worker_id: str) -> None:
    """Open an attempt."""
    connection.execute(
        sa.insert(attempt).values(
            trial_row_id=trial_row_id,
            fence=fence,
            worker_id=worker_id,
            started_at=sa.func.clock_timestamp(),
        )
    )


def end_attempt(
    connection: Connection, trial_row_id: int, outcome: str, message: str | None
) -> None:
    """Close the trial's open attempt, if there is one."""
    connection.execute(
        sa.update(attempt)
        .where(attempt.c.trial_row_id == trial_row_id, attempt.c.ended_at.is_(None))
        .values(ended_at=sa.func.clock_timestamp(), outcome=outcome, message=message)
    )


def attempts_of(connection: Connection, study_id: int, number: int) -> list[AttemptRow]:
    """All attempts of one trial, in order."""
    statement = (
        sa.select(*(attempt.c[name] for name in AttemptRow.__dataclass_fields__))
        .join(trial, trial.c.id == attempt.c.trial_row_id)
        .where(trial.c.study_id == study_id, trial.c.number == number)
        .order_by(attempt.c.fence)
    )
    return [AttemptRow(**row._mapping) for row in connection.execute(statement)]
