"""Graded answers of the evaluations, and the items that they answer.

Both are bytes to this room: the evaluation worker packs them, and compresses
them. They have tables of their own, because evaluations are read every second
and answers only when a person asks. They go with their study.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from hpo.spec.errors import StudyError
from storage.database import Database
from storage.schema import evaluation, evaluation_answers, evaluation_set


@dataclass(frozen=True)
class StoredSet:
    """The items of a set on which answers are generated."""

    hash: str
    items: bytes
    """As the worker packed them."""


class AnswerStore:
    """The items and the graded answers of one study."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._engine = database.engine
        self._study_id = study_id

    def put_set(self, test: bool, items: bytes, hash: str) -> None:  # noqa: A002 - the set's field
        """Store the items of the validation or the test set, once.

        What is stored already is left as it is. Raises StudyError when that
        has another hash, or when there is no such study.
        """
        stored = self._hash(test)
        if stored is None:
            self._insert(test, items, hash)
            # Another worker may have been faster.
            stored = self._hash(test)
        if stored != hash:
            name = "test set" if test else "generation set"
            raise StudyError(
                f"the items of the {name} here ({hash}) are not those that the study's answers "
                f"were given to ({stored}); put the same files, model and versions of the "
                "libraries here, or give the study file another name"
            )

    def get_set(self, test: bool) -> StoredSet | None:
        """The items of the validation or the test set, if they were stored."""
        statement = sa.select(evaluation_set.c.hash, evaluation_set.c["items"]).where(
            self._is(test)
        )
        with self._engine.connect() as connection:
            row = connection.execute(statement).one_or_none()
        return StoredSet(row[0], bytes(row[1])) if row else None

    def answers(self, evaluation_id: int) -> bytes | None:
        """The graded answers of an evaluation; None where none were stored."""
        statement = (
            sa.select(evaluation_answers.c.content)
            .join(evaluation, evaluation.c.id == evaluation_answers.c.evaluation_id)
            .where(evaluation.c.id == evaluation_id, evaluation.c.study_id == self._study_id)
        )
        with self._engine.connect() as connection:
            content = connection.scalar(statement)
        return None if content is None else bytes(content)

    def _hash(self, test: bool) -> str | None:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(evaluation_set.c.hash).where(self._is(test)))

    def _insert(self, test: bool, items: bytes, digest: str) -> None:
        statement = (
            insert(evaluation_set)
            .values(study_id=self._study_id, test=test, hash=digest, items=items)
            .on_conflict_do_nothing()
        )
        try:
            with self._engine.begin() as connection:
                connection.execute(statement)
        except IntegrityError as error:
            raise StudyError(f"there is no study with id {self._study_id}") from error

    def _is(self, test: bool) -> sa.ColumnElement[bool]:
        return sa.and_(evaluation_set.c.study_id == self._study_id, evaluation_set.c.test.is_(test))


def keep_answers(connection: Connection, evaluation_id: int, content: bytes) -> None:
    """Store the graded answers of an evaluation that is being completed."""
    connection.execute(
        sa.insert(evaluation_answers).values(evaluation_id=evaluation_id, content=content)
    )
