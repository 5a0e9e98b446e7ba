"""Which worker processes are there.

A worker names its database sessions after itself. The server drops a session
as soon as its process is gone, so presence is read from `pg_stat_activity`:
no heartbeat, no process ids of other machines.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from storage.database import Database
from storage.leases import expire, live
from storage.schema import evaluation, trial, worker

WorkerKind = Literal["trial", "evaluation"]
PREFIX = "hpo-worker-"


def new_worker_id() -> str:
    """A name that no other worker has."""
    return str(uuid.uuid4())


def session_name(worker_id: str) -> str:
    """The `application_name` that a worker opens its database with."""
    return f"{PREFIX}{worker_id}"


@dataclass(frozen=True)
class WorkerRow:
    """A worker process."""

    id: str
    kind: str
    study_id: int
    host: str
    pid: int
    device: str
    started_at: datetime
    phase: str
    """What it is doing, for people."""


class Workers:
    """The workers of one database."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    def register(
        self, kind: WorkerKind, study_id: int, device: str, *, worker_id: str | None = None
    ) -> str:
        """Enter this process, before or after its sessions bear its name; returns its id.

        A worker that has no session named `session_name(id)` counts as absent.
        """
        worker_id = worker_id or new_worker_id()
        statement = sa.insert(worker).values(
            id=worker_id,
            kind=kind,
            study_id=study_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device,
        )
        with self._engine.begin() as connection:
            connection.execute(statement)
        return worker_id

    def phase(self, worker_id: str, text: str) -> None:
        """Tell people what the worker is doing."""
        statement = sa.update(worker).where(worker.c.id == worker_id).values(phase=text)
        with self._engine.begin() as connection:
            connection.execute(statement)

    def present(self, study_id: int) -> list[WorkerRow]:
        """The study's workers that have a session now, oldest first."""
        statement = (
            sa.select(worker)
            .where(worker.c.study_id == study_id, _has_session())
            .order_by(worker.c.started_at, worker.c.id)
        )
        with self._engine.connect() as connection:
            return [WorkerRow(**row._mapping) for row in connection.execute(statement)]

    def free_absent(self, study_id: int, *, untried: bool = False) -> int:
        """Free at once what workers without a session hold; how much it was.

        With `untried` their evaluations do not count as attempts: not the
        workers failed, but what they need.
        """
        absent = sa.select(worker.c.id).where(worker.c.study_id == study_id, ~_has_session())
        with self._engine.begin() as connection:
            if untried:
                connection.execute(
                    sa.update(evaluation)
                    .where(evaluation.c.study_id == study_id, live(evaluation))
                    .where(evaluation.c.worker_id.in_(absent))
                    .values(attempts=evaluation.c.attempts - 1)
                )
            return sum(expire(connection, table, study_id, absent) for table in (trial, evaluation))


def _has_session() -> sa.ColumnElement[bool]:
    activity: Any = sa.table(
        "pg_stat_activity", sa.column("datname"), sa.column("application_name")
    )
    return sa.exists().where(
        activity.c.datname == sa.func.current_database(),
        activity.c.application_name == sa.literal(PREFIX) + worker.c.id,
    )
