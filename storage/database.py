"""One connection pool per process to the study's Postgres, our tables up to date.

Optuna's tables live in the default schema of the same database and are made
by Optuna; ours live in the schema `hpo` and are made by Alembic migrations.
"""

from __future__ import annotations

import json
import re
from enum import IntEnum
from functools import cached_property, partial
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from hpo.spec.errors import DatabaseError
from storage.closing import Closing
from storage.migrations import UnknownRevision, migrate
from storage.schema import SCHEMA

SCHEMES = ("postgres", "postgresql", "postgresql+psycopg2")
CONNECT_TIMEOUT_SECONDS = 5
# The server ends a transaction whose process froze, and so frees its locks.
SESSION_OPTIONS = "-c timezone=UTC -c idle_in_transaction_session_timeout=60s"


class AdvisoryLock(IntEnum):
    """First key of our advisory locks; the second is a study's id, or 0, or a device's key."""

    MIGRATIONS = 0x68706F01
    OPTUNA_TABLES = 0x68706F02
    TRIALS = 0x68706F03
    CHECKPOINTS = 0x68706F04
    TURN = 0x68706F05
    TURN_TAKERS = 0x68706F06

    def take(self, connection: Connection, key: int = 0) -> None:
        """Wait for the lock; it is held until the transaction ends."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(int(self), key)))


class Database(Closing):
    """The study database: `engine` for our tables, `optuna_storage()` for Optuna's."""

    def __init__(self, url: URL, *, application_name: str) -> None:
        self._options = _engine_options(url, application_name)
        self.url = url.render_as_string(hide_password=False)
        self.engine = sa.create_engine(
            url, json_serializer=partial(json.dumps, allow_nan=False), **self._options
        )

    @classmethod
    def open(cls, url: str, *, application_name: str = "hpo") -> Database:
        """Connect and bring our tables up to date; any number of processes may do so at once.

        `application_name` names the sessions in `pg_stat_activity`, at most 63 bytes.
        Raises DatabaseError when that is not possible.
        """
        database = cls(_parse(url), application_name=application_name)
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage on the same database; always the same object.

        Raises DatabaseError when its tables cannot be made or belong to another Optuna.
        """
        return self._optuna_storage

    def connection_arguments(self, **changed: str) -> dict[str, Any]:
        """What psycopg2 connects with, for a connection that no pool lends to others."""
        _, arguments = self.engine.dialect.create_connect_args(self.engine.url)
        return {**arguments, **self._options["connect_args"], **changed}

    def close(self) -> None:
        """Close every connection."""
        if "_optuna_storage" in self.__dict__:
            self._optuna_storage.remove_session()
            self._optuna_storage.engine.dispose()
        self.engine.dispose()

    @cached_property
    def _optuna_storage(self) -> RDBStorage:
        # Optuna looks for its tables, then creates them: two processes at once would collide.
        with self.engine.begin() as connection:
            AdvisoryLock.OPTUNA_TABLES.take(connection)
            options = _beside_our_schema(connection, self._options)
            try:
                return RDBStorage(self.url, engine_kwargs=options)
            except RuntimeError as error:
                raise DatabaseError(f"database {mask(self.url)}: {_one_line(error)}") from error
            except DBAPIError as error:
                raise DatabaseError(_explain(self.url, error)) from error

    def _prepare(self) -> None:
        try:
            with self.engine.begin() as connection:
                AdvisoryLock.MIGRATIONS.take(connection)
                migrate(connection)
        except UnknownRevision as error:
            raise DatabaseError(
                f"database {mask(self.url)} has tables of a newer hpo ({error}); upgrade hpo"
            ) from None
        except DBAPIError as error:
            raise DatabaseError(_explain(self.url, error)) from error


def mask(url: str) -> str:
    """The URL with its passwords replaced by `***`, also when it is malformed."""
    hidden = re.sub(r"(//[^/@:]*:).*@", r"\1***@", url)
    return re.sub(r"(?i)((?:^|[?&])\w*password=)[^&]*", r"\1***", hidden)


def _parse(url: str) -> URL:
    allowed = "allowed: postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(f"database URL {mask(url)!r} is malformed; {allowed}") from error
    if parsed.drivername not in SCHEMES:
        raise DatabaseError(
            f"database {mask(url)} is not a Postgres; only Postgres can hold a study; {allowed}"
        )
    # Bare `postgresql` would mean another driver.
    return parsed.set(drivername="postgresql+psycopg2")


def _engine_options(url: URL, application_name: str) -> dict[str, Any]:
    given = url.query.get("options", "")
    return {
        "pool_pre_ping": True,
        "pool_size": 4,
        "max_overflow": 4,
        "connect_args": {
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "options": f"{given} {SESSION_OPTIONS}".strip(),
            # A host that vanished is noticed within a minute.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    }


def _beside_our_schema(connection: Connection, options: dict[str, Any]) -> dict[str, Any]:
    """The options with which Optuna's tables do not mix with ours.

    Postgres prefers the schema that is named like the user: a user named like
    ours would have Optuna take our `alembic_version` for its own.
    """
    if connection.scalar(sa.select(sa.func.current_schema())) != SCHEMA:
        return options
    arguments = options["connect_args"]
    public = {**arguments, "options": f"{arguments['options']} -c search_path=public"}
    return {**options, "connect_args": public}


def _explain(url: str, error: DBAPIError) -> str:
    reason = _one_line(error.orig)
    advice = next((text for words, text in ADVICE if words in reason), None)
    if advice is None:
        unreachable = isinstance(error, OperationalError)
        advice = "is the server running, and are host and port right?" if unreachable else PRIVILEGE
    return f"database {mask(url)} cannot be used: {reason}; {advice}"


PRIVILEGE = "the user must be allowed to create schemas and tables in this database"
ADVICE = (
    ("password", "check user and password"),
    ("role ", "check user and password"),
    ("pg_hba", "the server's pg_hba.conf must let this user in from this host"),
    ("permission denied", PRIVILEGE),
    ("does not exist", "create it first, for example with createdb"),
    ("too many", "raise the server's max_connections or start fewer workers"),
)


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
