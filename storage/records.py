"""What is stored about evaluations, read without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from storage.database import Database
from storage.leases import live
from storage.schema import BASE_ONLY, evaluation


@dataclass(frozen=True)
class EvaluationRequest:
    """A checkpoint to score, or the base model, claimed under a fencing number."""

    id: int
    study_id: int
    trial_id: int | None
    """Optuna's trial id; None for the base model."""
    number: int | None
    """The trial's number; None for the base model."""
    step: int
    """Optimizer steps that the weights have seen."""
    examples: int
    """Training examples that the weights have seen."""
    rung: int | None
    """Nominal examples of the rung that this evaluation decides."""
    checkpoint: str | None
    """Address in the checkpoint store; None for the base model."""
    fence: int
    attempts: int
    """How many workers had it, this one included."""
    test: bool
    """Whether it asks for the test set, which the base model and the winner are scored on."""


@dataclass(frozen=True)
class EvaluationRecord(EvaluationRequest):
    """A request as it is stored, with its result."""

    state: str
    worker_id: str | None
    result: dict[str, Any] | None
    reported: bool
    """Whether the evaluation worker reported the value to Optuna; one that came
    before its turn is reported by the trial worker instead."""
    error: str | None
    created_at: datetime
    claimed_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint whose evaluation was answered, without the answer."""

    number: int
    """The trial's number."""
    step: int
    checkpoint: str
    """Address in the checkpoint store."""


RECORD = tuple(evaluation.c[name] for name in EvaluationRecord.__dataclass_fields__)


class EvaluationRecords:
    """The evaluations of one study, to look at.

    Those on the test set are apart: no other question finds them.
    """

    def __init__(self, database: Database, study_id: int) -> None:
        self._engine = database.engine
        self._study_id = study_id

    def for_trial(self, number: int) -> list[EvaluationRecord]:
        """A trial's evaluations by step."""
        return self._all(
            sa.select(*RECORD)
            .where(evaluation.c.number == number, ~evaluation.c.test)
            .order_by(evaluation.c.step)
        )

    def base(self) -> EvaluationRecord | None:
        """The base model's evaluation, if it was asked for."""
        return self._first(BASE_ONLY, ~evaluation.c.test)

    def base_test(self) -> EvaluationRecord | None:
        """The base model's score on the test set, if it was asked for."""
        return self._first(BASE_ONLY, evaluation.c.test)

    def trial_test(self, number: int, step: int) -> EvaluationRecord | None:
        """A trial's score on the test set at a step, if it was asked for."""
        return self._first(
            evaluation.c.number == number, evaluation.c.step == step, evaluation.c.test
        )

    def pending(self, number: int) -> int:
        """How many of a trial's requests are open or claimed."""
        statement = sa.select(sa.func.count()).where(
            self._mine,
            evaluation.c.number == number,
            ~evaluation.c.test,
            evaluation.c.state.in_(("open", "claimed")),
        )
        with self._engine.connect() as connection:
            return connection.scalar(statement) or 0

    def pinned(self) -> set[str]:
        """Addresses of the checkpoints that somebody reads or will read."""
        needed = sa.or_(
            evaluation.c.state.in_(("open", "claimed")),
            sa.and_(evaluation.c.state == "cancelled", live(evaluation)),
        )
        statement = sa.select(evaluation.c.checkpoint).where(
            self._mine, needed, evaluation.c.checkpoint.is_not(None)
        )
        with self._engine.connect() as connection:
            return {address for address in connection.scalars(statement) if address is not None}

    def evaluated(self) -> list[EvaluatedCheckpoint]:
        """Checkpoints of all trials whose evaluation was answered, by trial and step."""
        columns = (evaluation.c.number, evaluation.c.step, evaluation.c.checkpoint)
        statement = (
            sa.select(*columns)
            .where(self._mine, ~evaluation.c.test, evaluation.c.state.in_(("done", "failed")))
            .where(evaluation.c.number.is_not(None), evaluation.c.checkpoint.is_not(None))
            .order_by(evaluation.c.number, evaluation.c.step)
        )
        with self._engine.connect() as connection:
            return [EvaluatedCheckpoint(**row._mapping) for row in connection.execute(statement)]

    def counts(self) -> dict[str, int]:
        """Number of evaluations by state; states without any are left out."""
        statement = (
            sa.select(evaluation.c.state, sa.func.count())
            .where(self._mine)
            .group_by(evaluation.c.state)
        )
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def recent(self, count: int) -> list[EvaluationRecord]:
        """The evaluations that changed last, newest first."""
        changed = sa.func.greatest(
            evaluation.c.created_at, evaluation.c.claimed_at, evaluation.c.finished_at
        )
        return self._all(
            sa.select(*RECORD)
            .where(~evaluation.c.test)
            .order_by(changed.desc(), evaluation.c.id.desc())
            .limit(count)
        )

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return evaluation.c.study_id == self._study_id

    def _all(self, statement: sa.Select[Any]) -> list[EvaluationRecord]:
        with self._engine.connect() as connection:
            return [
                EvaluationRecord(**row._mapping)
                for row in connection.execute(statement.where(self._mine))
            ]

    def _first(self, *conditions: sa.ColumnElement[bool]) -> EvaluationRecord | None:
        return next(iter(self._all(sa.select(*RECORD).where(*conditions))), None)

    def _one(self, connection: Connection, *conditions: sa.ColumnElement[bool]) -> EvaluationRecord:
        row = connection.execute(sa.select(*RECORD).where(self._mine, *conditions)).one()
        return EvaluationRecord(**row._mapping)
