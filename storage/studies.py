"""What we keep about a study beside what Optuna keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from hpo.spec.errors import StudyError
from storage.database import Database
from storage.listen import notify
from storage.schema import study


@dataclass(frozen=True)
class StudyRecord:
    """A study as it is stored."""

    id: int
    """Optuna's study id."""
    name: str
    spec: dict[str, Any]
    identity: dict[str, Any]
    """The part of the specification that may not change."""
    checkpoints: str
    """Root folder of the checkpoint store."""
    data: dict[str, Any] | None
    """What became of its data; None until it was prepared."""
    stop_requested: bool
    created_at: datetime


class Studies:
    """The studies of one database. Every change wakes the study's listeners."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    def insert(
        self,
        *,
        id: int,  # noqa: A002 - the record's field
        name: str,
        spec: dict[str, Any],
        identity: dict[str, Any],
        checkpoints: str,
    ) -> StudyRecord:
        """Store a new study. Raises StudyError when its id or name is taken."""
        statement = sa.insert(study).values(
            id=id,
            name=name,
            spec=spec,
            identity=identity,
            checkpoints=checkpoints,
        )
        try:
            with self._engine.begin() as connection:
                row = connection.execute(statement.returning(study)).one()
                notify(connection, id)
        except IntegrityError as error:
            raise StudyError(f"study {name!r} exists already") from error
        return StudyRecord(**row._mapping)

    def get(self, name: str) -> StudyRecord | None:
        """The study of that name."""
        return self._one(study.c.name == name)

    def by_id(self, study_id: int) -> StudyRecord | None:
        """The study with that id."""
        return self._one(study.c.id == study_id)

    def list(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(study).order_by(study.c.created_at, study.c.id))
            return [StudyRecord(**row._mapping) for row in rows]

    def update_spec(self, study_id: int, spec: dict[str, Any]) -> None:
        """Replace the specification, whose identity the caller has compared."""
        self._update(study_id, spec=spec)

    def note_data(self, study_id: int, report: dict[str, Any]) -> dict[str, Any]:
        """Store what became of the study's data, unless it is known; what is stored then.

        Of several processes one is the first, and all of them get its report.
        Raises StudyError when there is no such study.
        """
        first = sa.update(study).where(study.c.id == study_id, study.c.data.is_(None))
        with self._engine.begin() as connection:
            if connection.execute(first.values(data=report)).rowcount:
                notify(connection, study_id)
            stored = connection.scalar(sa.select(study.c.data).where(study.c.id == study_id))
        if stored is None:
            raise StudyError(f"there is no study with id {study_id}")
        known: dict[str, Any] = stored
        return known

    def request_stop(self, study_id: int) -> None:
        """Have no more trials started or continued."""
        self._update(study_id, stop_requested=True)

    def resume(self, study_id: int) -> None:
        """Take a stop request back."""
        self._update(study_id, stop_requested=False)

    def delete(self, study_id: int) -> None:
        """Delete everything of ours about the study; Optuna's part is the caller's."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(study).where(study.c.id == study_id))
            notify(connection, study_id)

    def _one(self, condition: sa.ColumnElement[bool]) -> StudyRecord | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(study).where(condition)).one_or_none()
        return StudyRecord(**row._mapping) if row else None

    def _update(self, study_id: int, **values: Any) -> None:
        statement = sa.update(study).where(study.c.id == study_id).values(**values)
        with self._engine.begin() as connection:
            if connection.execute(statement).rowcount == 0:
                raise StudyError(f"there is no study with id {study_id}")
            notify(connection, study_id)
