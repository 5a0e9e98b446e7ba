"""Opening a study's database: migrations, Optuna's tables, and what goes wrong."""

from __future__ import annotations

import multiprocessing
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hpo.spec.errors import DatabaseError
from storage.answers import AnswerStore
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrations import _config, create_schema, current_revision
from storage.queue import EvaluationQueue
from storage.schema import SCHEMA, metadata
from storage.studies import Studies

pytestmark = pytest.mark.postgres


def test_the_schema_equals_all_migrations(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table_schema": SCHEMA,
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_check_constraints_and_indices_equal_all_migrations(database: Database) -> None:
    # Alembic compares neither check constraints nor the conditions of indices.
    with database.engine.begin() as connection:
        migrated = _definitions(connection)
        connection.execute(sa.schema.DropSchema(SCHEMA, cascade=True))
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        metadata.create_all(connection)
        assert _definitions(connection) == migrated


def _definitions(connection: sa.Connection) -> set[str]:
    version = "alembic_version"
    constraints = connection.execute(
        sa.text(
            "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = CAST(:schema AS regnamespace)"
        ),
        {"schema": SCHEMA},
    ).scalars()
    indices = connection.execute(
        sa.text("SELECT indexdef FROM pg_indexes WHERE schemaname = :schema"), {"schema": SCHEMA}
    ).scalars()
    return {definition for definition in (*constraints, *indices) if version not in definition}


@pytest.mark.slow
def test_processes_that_start_together_all_find_the_tables(database_url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(_open_everything, [database_url] * 4)) == ["0003"] * 4


def _open_everything(url: str) -> str | None:
    with Database.open(url) as database, database.engine.connect() as connection:
        assert database.optuna_storage().get_all_studies() == []
        return current_revision(connection)


def test_a_user_named_like_our_schema_keeps_optunas_tables_apart(database_url: str) -> None:
    as_owner = sa.make_url(database_url)
    with Database.open(database_url) as database, database.engine.begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE {SCHEMA} LOGIN SUPERUSER PASSWORD '{SCHEMA}'"))
    try:
        for _ in range(2):
            named = as_owner.set(username=SCHEMA, password=SCHEMA)
            with Database.open(named.render_as_string(hide_password=False)) as database:
                assert database.optuna_storage().get_all_studies() == []
                assert sa.inspect(database.engine).has_table("studies", "public")
    finally:
        with Database.open(database_url) as database, database.engine.begin() as connection:
            connection.execute(sa.text(f"REASSIGN OWNED BY {SCHEMA} TO {as_owner.username}"))
            connection.execute(sa.text(f"DROP ROLE {SCHEMA}"))


def test_opening_twice_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        with Database.open(database_url) as database, database.engine.connect() as connection:
            assert current_revision(connection) == "0003"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_the_scheme_is_accepted(database_url: str, scheme: str) -> None:
    url = database_url.replace("postgresql+psycopg2", scheme)
    with Database.open(url) as database:
        assert database.url.startswith("postgresql+psycopg2://")


def test_sessions_speak_utc_and_bear_the_name(database_url: str) -> None:
    with Database.open(database_url, application_name="somebody") as database:
        engines = (database.engine, database.optuna_storage().engine)
        for engine in engines:
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SHOW timezone")) == "UTC"
                assert connection.scalar(sa.text("SHOW application_name")) == "somebody"


def test_optuna_works_beside_our_tables(database: Database) -> None:
    study = optuna.create_study(storage=database.optuna_storage(), study_name="one")
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
    study.tell(trial, 0.5)
    assert study.best_value == 0.5
    assert database.optuna_storage() is database.optuna_storage()
    with database.engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names("public"))
    assert {"studies", "trials", "alembic_version"} <= tables


def test_a_dropped_connection_is_replaced(database: Database) -> None:
    optuna.create_study(storage=database.optuna_storage(), study_name="one")
    _drop_all_sessions(database)
    assert len(database.optuna_storage().get_all_studies()) == 1
    with database.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def _drop_all_sessions(database: Database) -> None:
    others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    own = sa.create_engine(database.url, poolclass=sa.NullPool)
    with own.begin() as connection:
        connection.execute(others)


def test_an_unreachable_server_is_one_clear_line() -> None:
    url = "postgresql://me:secret@127.0.0.1:1/hpo"
    message = _refusal(url)
    assert message.startswith("database postgresql+psycopg2://me:***@127.0.0.1:1/hpo")
    assert "Connection refused" in message
    assert "is the server running" in message


def test_an_unknown_database_is_one_clear_line(database_url: str) -> None:
    url = sa.make_url(database_url).set(database="nowhere").render_as_string(hide_password=False)
    message = _refusal(url)
    assert 'database "nowhere" does not exist' in message
    assert "createdb" in message


def test_an_unknown_user_is_one_clear_line(database_url: str) -> None:
    url = sa.make_url(database_url).set(username="nobody-here", password="secret")
    assert "check user and password" in _refusal(url.render_as_string(hide_password=False))


@pytest.mark.slow
def test_a_wrong_password_is_one_clear_line() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        demand_passwords(Path(folder), server.url, "right")
        url = sa.make_url(server.url)
        Database.open(url.set(password="right").render_as_string(hide_password=False)).close()
        for password in ("secret", None):
            wrong = url.set(password=password).render_as_string(hide_password=False)
            assert "check user and password" in _refusal(wrong)


def demand_passwords(folder: Path, url: str, password: str) -> None:
    (folder / "data" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER ROLE postgres PASSWORD '{password}'"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    engine.dispose()


def test_something_else_on_the_port_is_one_clear_line() -> None:
    class Web(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = server.server_address[1]
            assert "cannot be used" in _refusal(f"postgresql://me:secret@127.0.0.1:{port}/hpo")
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def owner(database_url: str) -> Iterator[sa.Engine]:
    """The owner's access to an empty database."""
    engine = sa.create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def guest(owner: sa.Engine) -> Iterator[str]:
    """URL for a user who may use the database but not the schema of Optuna's tables."""
    name = f"guest_{owner.url.database}"
    with owner.begin() as connection:
        connection.execute(sa.text("REVOKE CREATE ON SCHEMA public FROM public"))
        connection.execute(sa.text(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'"))
    url = owner.url.set(username=name, password="secret")
    yield url.render_as_string(hide_password=False)
    with owner.begin() as connection:
        connection.execute(sa.text(f"DROP OWNED BY {name}"))
        connection.execute(sa.text(f"DROP ROLE {name}"))


def test_a_user_without_privileges_is_told_so(guest: str) -> None:
    message = _refusal(guest)
    assert "permission denied" in message
    assert "must be allowed to create schemas and tables" in message


def test_a_user_who_cannot_make_optunas_tables_is_told_so(owner: sa.Engine, guest: str) -> None:
    name = sa.make_url(guest).username
    with owner.begin() as connection:
        grant = f"GRANT CREATE ON DATABASE {owner.url.database} TO {name}"
        connection.execute(sa.text(grant))
    with (
        Database.open(guest) as opened,
        pytest.raises(DatabaseError, match=r"permission denied.*must be allowed") as caught,
    ):
        opened.optuna_storage()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_of_a_newer_version_are_left_alone(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE hpo.alembic_version SET version_num = '9999'"))
    assert "upgrade hpo" in _refusal(database.url)


def _refusal(url: str) -> str:
    with pytest.raises(DatabaseError) as caught:
        Database.open(url)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_tables_of_the_first_version_are_brought_up_to_date(database_url: str) -> None:
    engine = sa.create_engine(sa.make_url(database_url))
    with engine.begin() as connection:
        create_schema(connection)
        command.upgrade(_config(connection), "0001")
        connection.execute(
            sa.text(
                f"INSERT INTO {SCHEMA}.study (id, name, spec, identity, checkpoints)"
                " VALUES (1, 'old', '{}', '{}', '/nowhere')"
            )
        )
        connection.execute(
            sa.text(
                f"INSERT INTO {SCHEMA}.evaluation (study_id, trial_id, number, step, examples)"
                " VALUES (1, NULL, NULL, 0, 0), (1, 10, 0, 5, 40)"
            )
        )
    engine.dispose()
    with Database.open(database_url) as database:
        record = Studies(database).get("old")
        assert record is not None
        assert record.data is None
        queue = EvaluationQueue(database, 1, seconds=1)
        assert queue.base() is not None
        assert [(found.step, found.test) for found in queue.for_trial(0)] == [(5, False)]
        assert queue.base_test() is None


def test_tables_of_the_last_version_keep_what_they_hold(database_url: str) -> None:
    engine = sa.create_engine(sa.make_url(database_url))
    with engine.begin() as connection:
        create_schema(connection)
        command.upgrade(_config(connection), "0002")
        for statement in LAST_VERSION:
            connection.execute(sa.text(statement))
        before = _contents(connection)
    engine.dispose()
    with Database.open(database_url) as database:
        with database.engine.connect() as connection:
            assert _contents(connection) == before
        queue = EvaluationQueue(database, 1, seconds=30)
        answers = AnswerStore(database, 1)
        assert (answers.get_set(False), answers.answers(1)) == (None, None)
        claimed = [queue.claim("evaluator") for _ in range(3)]
        assert [found and (found.number, found.step) for found in claimed] == [
            (0, 10),
            (0, 15),
            None,
        ]
        assert claimed[0] is not None
        queue.complete(claimed[0], {"loss": 1.0}, lambda: True, b"graded")
        assert answers.answers(claimed[0].id) == b"graded"


LAST_VERSION = (
    f"INSERT INTO {SCHEMA}.study (id, name, spec, identity, checkpoints, data)"
    " VALUES (1, 'old', '{}', '{}', '/nowhere', jsonb_build_object('hash', 'h'))",
    f"INSERT INTO {SCHEMA}.trial (study_id, trial_id, number, worker_id, lease_expires_at)"
    " VALUES (1, 10, 0, 'trainer', now())",
    f"INSERT INTO {SCHEMA}.evaluation"
    " (study_id, trial_id, number, step, examples, state, worker_id, claimed_at, result) VALUES"
    " (1, 10, 0, 5, 40, 'done', 'a', now(), jsonb_build_object('loss', 2.5)),"
    " (1, 10, 0, 15, 120, 'open', NULL, NULL, NULL),"
    " (1, 10, 0, 10, 80, 'claimed', 'gone', now(), NULL)",
    f"INSERT INTO {SCHEMA}.worker (id, kind, study_id, host, pid, device)"
    " VALUES ('a', 'evaluation', 1, 'host', 7, 'cpu')",
)


def _contents(connection: sa.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables that the last version had."""
    return {
        table: [
            tuple(row)
            for row in connection.execute(sa.text(f"SELECT * FROM {SCHEMA}.{table} ORDER BY 1"))
        ]
        for table in ("study", "trial", "attempt", "evaluation", "worker")
    }
