"""Brings our tables to the newest revision, with Alembic, driven from Python."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from storage.schema import SCHEMA


class UnknownRevision(Exception):
    """The tables are at a revision that this version of the program does not know."""


def migrate(connection: Connection) -> None:
    """Run the missing migrations in the connection's transaction.

    The caller holds a lock, so that nobody else migrates. Raises
    UnknownRevision when the tables are newer than this program.
    """
    config = _config(connection)
    script = ScriptDirectory.from_config(config)
    revision = current_revision(connection)
    if revision == script.get_current_head():
        return
    if revision not in {None, *(known.revision for known in script.walk_revisions())}:
        raise UnknownRevision(f"revision {revision}")
    command.upgrade(config, "head")


def current_revision(connection: Connection) -> str | None:
    """Revision that our tables are at; None before the first one."""
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    folder = str(Path(__file__).parent)
    # The option is read with interpolation of percent signs.
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def create_schema(connection: Connection) -> None:
    """Create our schema if it is missing; asks for the privilege only then."""
    if connection.scalar(sa.select(sa.func.to_regnamespace(SCHEMA))) is None:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
