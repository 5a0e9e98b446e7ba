"""The turns of a device: one holder at a time, in the order of asking, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
import turn_takers
from turn_takers import DEVICE, read_journal

from storage.database import Database
from storage.turns import Line, Turn, device_key

pytestmark = pytest.mark.postgres

SOON = 5.0
BRIEFLY = 0.05


@pytest.fixture
def turn(database: Database) -> Iterator[Callable[..., Turn]]:
    """Another process's view of a device, as far as the server can tell."""
    made: list[Turn] = []

    def make(device: str = DEVICE) -> Turn:
        made.append(Turn(database, device))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sessions(database: Database) -> int:
    with database.engine.connect() as connection:
        count = sa.text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'hpo-turn' AND datname = current_database()"
        )
        found: int = connection.execute(count).scalar_one()
        return found


def cut(database: Database, condition: str = "true") -> None:
    """End the sessions of turns, as a failing network or an administrator does."""
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE application_name = 'hpo-turn' AND datname = current_database()"
                f" AND {condition}"
            )
        )


def test_one_holds_and_the_others_come_in_the_order_of_asking(turn: Callable[..., Turn]) -> None:
    first, second, third = turn(), turn(), turn()
    assert first.wait(SOON)
    assert first.line() == Line(waiting=False, others=0)
    assert not second.wait(BRIEFLY)
    assert not third.wait(BRIEFLY)
    assert first.line() == Line(waiting=True, others=2)
    assert first.holds()
    first.give()
    # Whoever gives its turn away and asks at once stands behind those who wait.
    assert not first.wait(BRIEFLY)
    assert not third.wait(BRIEFLY)
    assert second.wait(BRIEFLY)
    second.give()
    assert not first.wait(BRIEFLY)
    assert third.wait(BRIEFLY)
    third.give()
    assert first.wait(SOON)
    assert first.line() == Line(waiting=False, others=2)
    assert second.line() is None
    assert not second.holds()


def test_devices_have_nothing_to_do_with_each_other(turn: Callable[..., Turn]) -> None:
    one, other = turn("gpu 1"), turn("gpu 2")
    assert one.wait(SOON)
    assert other.wait(SOON)
    assert one.line() == other.line() == Line(waiting=False, others=0)
    assert device_key("gpu 1") == device_key("gpu 1") != device_key("gpu 2")
    assert all(-(2**31) <= device_key(f"gpu {n}") < 2**31 for n in range(100))


def test_who_leaves_the_line_is_not_waited_for(
    turn: Callable[..., Turn], database: Database
) -> None:
    holder, waiter = turn(), turn()
    assert holder.wait(SOON)
    assert not waiter.wait(BRIEFLY)
    waiter.give()
    assert holder.line() == Line(waiting=False, others=1)
    assert not waiter.wait(BRIEFLY)
    waiter.close()
    assert _until(lambda: holder.line() == Line(waiting=False, others=0))
    holder.close()
    assert _until(lambda: sessions(database) == 0)


def test_a_holder_that_is_cut_off_notices_and_stands_in_line_again(
    turn: Callable[..., Turn], database: Database
) -> None:
    holder, waiter = turn(), turn()
    assert holder.wait(SOON)
    assert not waiter.wait(BRIEFLY)
    cut(database, "wait_event_type <> 'Lock'")
    assert waiter.wait(SOON), "the turn of a session that ended is free"
    assert _until(lambda: not holder.holds())
    assert holder.line() is None
    holder.give()
    assert not holder.wait(BRIEFLY)
    waiter.give()
    assert holder.wait(SOON)


def test_a_holder_learns_of_the_cut_by_asking_too(
    turn: Callable[..., Turn], database: Database
) -> None:
    holder = turn()
    assert holder.wait(SOON)
    cut(database)
    assert holder.line() is None
    assert not holder.holds()


def test_a_waiter_that_is_cut_off_asks_again(
    turn: Callable[..., Turn], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    holder, waiter = turn(), turn()
    assert holder.wait(SOON)
    assert not waiter.wait(BRIEFLY)
    cut(database, "wait_event_type = 'Lock'")
    assert not waiter.wait(BRIEFLY)
    assert "no session for the turns" in caplog.text
    assert not waiter.wait(BRIEFLY)
    holder.give()
    assert waiter.wait(SOON)


def test_a_database_that_is_away_is_asked_until_it_is_back(
    turn: Callable[..., Turn], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    holder = turn()
    assert holder.wait(SOON)
    name = sa.make_url(database.url).database
    elsewhere = sa.create_engine(
        sa.make_url(database.url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with elsewhere.connect() as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'hpo-turn' AND datname = :name"
            ),
            {"name": name},
        )
        assert _until(lambda: not holder.holds())
        assert not any(holder.wait(BRIEFLY) for _ in range(5))
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
    elsewhere.dispose()
    assert holder.wait(SOON)
    assert caplog.text.count("no session for the turns") == 1, "said once"


def test_time_limits_of_the_server_do_not_end_a_turn(
    turn: Callable[..., Turn], database: Database
) -> None:
    name = sa.make_url(database.url).database
    with database.engine.begin() as connection:
        for limit in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
            connection.execute(sa.text(f'ALTER DATABASE "{name}" SET {limit} = 100'))
    holder, waiter = turn(), turn()
    assert holder.wait(SOON)
    assert not waiter.wait(0.4)
    assert holder.holds()
    assert holder.line() == Line(waiting=True, others=1)
    holder.give()
    assert waiter.wait(BRIEFLY)


def test_a_killed_waiter_is_gone_when_its_turn_comes(
    turn: Callable[..., Turn], database: Database
) -> None:
    holder = turn()
    assert holder.wait(SOON)
    with subprocess.Popen(
        [sys.executable, "-c", WAITER, database.url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGKILL)
    # The server does not look for its client while it waits for a lock.
    holder.give()
    assert holder.wait(SOON)
    assert holder.line() == Line(waiting=False, others=0)


WAITER = f"""
import sys
from storage.database import Database
from storage.turns import Turn
with Database.open(sys.argv[1]) as database, Turn(database, {DEVICE!r}) as turn:
    assert not turn.wait(0.1)
    print("waits", flush=True)
    turn.wait(60)
"""


@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
def test_never_two_at_a_time_while_processes_are_killed(
    database: Database, tmp_path: Path, seconds: float
) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    arguments = [database.url, str(journal), "3", str(seconds)]
    subprocess.run(
        [sys.executable, turn_takers.__file__, *arguments],
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    turns = read_journal(journal)
    assert len(turns) > 50 * seconds
    assert sum(turn.killed for turn in turns) > 2 * seconds
    for before, after in pairwise(turns):
        assert before.end <= after.begin
    # Who asks again stands behind: nobody who lives takes two turns while two others wait.
    counts = Counter(turn.process for turn in turns)
    assert max(counts.values()) < len(turns) / 2


def test_looking_is_cheap(turn: Callable[..., Turn]) -> None:
    holder = turn()
    assert holder.wait(SOON)
    started = time.perf_counter()
    for _ in range(1000):
        assert holder.holds()
    assert time.perf_counter() - started < 0.5
    started = time.perf_counter()
    for _ in range(100):
        assert holder.line() is not None
    assert time.perf_counter() - started < 2.0


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
