from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from storage.database import Database
from storage.listen import Listener, notify
from storage.queue import EvaluationQueue
from storage.studies import Studies
from storage.trials import TrialLease, TrialLeases

pytestmark = pytest.mark.postgres


def test_a_change_wakes_within_a_second(database: Database, study: int) -> None:
    with Listener(database, study) as listener:
        assert not listener.wait(0.0)
        timer = threading.Timer(0.2, Studies(database).request_stop, [study])
        started = time.monotonic()
        timer.start()
        assert listener.wait(10.0)
        assert 0.1 < time.monotonic() - started < 1.2
        timer.join()
        assert not listener.poll()


def test_waiting_ends_without_news(database: Database, study: int) -> None:
    with Listener(database, study) as listener:
        started = time.monotonic()
        assert not listener.wait(0.2)
        assert 0.19 < time.monotonic() - started < 1.0


def test_a_rolled_back_change_wakes_nobody(database: Database, study: int) -> None:
    with Listener(database, study) as listener:
        with database.engine.connect() as connection:
            notify(connection, study)
            connection.rollback()
        assert not listener.wait(0.1)


def test_other_studies_wake_nobody(database: Database, study: int) -> None:
    with Listener(database, study + 1) as listener:
        Studies(database).request_stop(study)
        assert not listener.wait(0.1)


def test_what_others_wait_for_wakes(
    database: Database, leases: TrialLeases, queue: EvaluationQueue, lease: TrialLease
) -> None:
    def claimed_then(act: Callable[..., object], *arguments: object) -> Callable[[], object]:
        request = queue.claim("evaluator")
        return lambda: act(request, *arguments)

    content = {"examples": 8, "rung": None, "checkpoint": "c"}
    with Listener(database, lease.study_id) as listener:

        def wakes(act: Callable[[], object]) -> bool:
            while listener.poll():
                pass
            act()
            return listener.wait(1.0)

        assert wakes(queue.put_base)
        assert wakes(claimed_then(queue.release))
        assert wakes(claimed_then(queue.complete, {}, lambda: False))
        assert wakes(lambda: queue.put(lease, step=1, **content))  # type: ignore[arg-type]
        assert wakes(lambda: queue.cancel(0, after_step=0))
        assert wakes(lambda: leases.release_worker("trainer"))
        assert wakes(lambda: leases.finish(lease, "complete"))


def test_polling_is_cheap(database: Database, study: int) -> None:
    with Listener(database, study) as listener:
        started = time.perf_counter()
        for _ in range(100):
            assert not listener.poll()
        assert (time.perf_counter() - started) / 100 < 1e-3


def test_a_dropped_connection_is_replaced_and_counts_as_news(
    database: Database, study: int
) -> None:
    with Listener(database, study) as listener:
        _drop(database)
        assert listener.wait(5.0)
        assert not listener.wait(0.1)
        Studies(database).request_stop(study)
        assert listener.wait(1.0)


def test_a_server_that_is_away_is_waited_for(database: Database, study: int) -> None:
    with Listener(database, study) as listener:
        _allow_connections(database, allowed=False)
        try:
            _drop(database)
            assert not listener.wait(0.3)
        finally:
            _allow_connections(database, allowed=True)
        assert listener.wait(5.0)


def _drop(database: Database) -> None:
    _elsewhere(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{database.engine.url.database}' AND pid <> pg_backend_pid()",
    )


def _allow_connections(database: Database, *, allowed: bool) -> None:
    _elsewhere(
        database, f"ALTER DATABASE {database.engine.url.database} ALLOW_CONNECTIONS {allowed}"
    )


def _elsewhere(database: Database, statement: str) -> None:
    url = database.engine.url.set(database="postgres")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
