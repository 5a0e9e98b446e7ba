"""Databases for tests: one real server per run, one fresh database per test.

`HPO_TEST_DATABASE_URL` chooses another server than the embedded one; its user
must be allowed to create databases.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings

from storage.database import Database
from storage.embedded import EmbeddedPostgres

# Several tests run at once: threads of one would only hinder another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A machine under load is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a server's maintenance database."""
    given = os.environ.get("HPO_TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not below pytest's folder: concurrent runs close it to the server's user.
    with (
        tempfile.TemporaryDirectory(prefix="hpo-test-") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        _stop_waiting_for_the_disk(server.url)
        yield server.url


def _stop_waiting_for_the_disk(url: str) -> None:
    engine = _maintenance(url)
    with engine.connect() as connection:
        connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))


def _maintenance(url: str) -> sa.Engine:
    driver = sa.make_url(url).set(drivername="postgresql+psycopg2")
    return sa.create_engine(driver, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty database that is dropped after the test."""
    with _new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def tables(postgres_server: str) -> Iterator[str]:
    """Name of a database that has our tables and Optuna's, made once."""
    with _new_database(postgres_server) as url:
        with Database.open(url) as opened:
            opened.optuna_storage()
        name = sa.make_url(url).database
        assert name is not None
        yield name


@pytest.fixture
def database(postgres_server: str, tables: str) -> Iterator[Database]:
    """A database of its own with empty tables, opened."""
    with _new_database(postgres_server, tables) as url, Database.open(url) as opened:
        yield opened


@contextmanager
def _new_database(server: str, template: str = "template1") -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    engine = _maintenance(server)
    with engine.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    yield engine.url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
