"""The embedded server: shared, stopped with its last user, started after anything."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
import sqlalchemy as sa

from hpo.spec.errors import DatabaseError
from storage.database import Database
from storage.embedded import EmbeddedPostgres, running

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

USER = """
import sys
from pathlib import Path
from storage.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another_user(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the folder's server until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("postgresql://")
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


@pytest.fixture
def empty() -> Iterator[Path]:
    # Not below pytest's folder: concurrent runs close it to the server's user.
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A folder whose data directory was made and whose server was stopped."""
    with tempfile.TemporaryDirectory() as path:
        with EmbeddedPostgres(Path(path)):
            pass
        yield Path(path)


@pytest.fixture
def folder(empty: Path, template: Path) -> Path:
    subprocess.run(["cp", "-a", f"{template}/.", str(empty)], check=True)
    return empty


def test_data_outlives_the_server(folder: Path) -> None:
    for _ in range(2):
        with EmbeddedPostgres(folder) as server, Database.open(server.url) as database:
            assert running(folder)
            names = database.optuna_storage().get_all_studies()
            database.optuna_storage().create_new_study([], f"study-{len(names)}")
        assert not running(folder)
    with EmbeddedPostgres(folder) as server, Database.open(server.url) as database:
        assert len(database.optuna_storage().get_all_studies()) == 2


def test_the_last_user_stops_it(folder: Path) -> None:
    with another_user(folder):
        with EmbeddedPostgres(folder) as server:
            assert can_connect(server.url)
        assert can_connect(server.url)
    assert not running(folder)


def test_two_users_in_one_process(folder: Path) -> None:
    with EmbeddedPostgres(folder) as outer:
        with EmbeddedPostgres(folder) as inner:
            assert inner.url == outer.url
        assert can_connect(outer.url)
    assert not running(folder)


def test_a_killed_user_does_not_keep_it_running(folder: Path) -> None:
    with another_user(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert running(folder)
        with EmbeddedPostgres(folder) as server:
            assert can_connect(server.url)
    assert not running(folder)


def test_it_starts_after_a_power_cut(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server, Database.open(server.url):
        cut_power(folder / "data")
    assert (folder / "data" / "postmaster.pid").exists()
    with EmbeddedPostgres(folder) as server:
        assert can_connect(server.url)


def test_it_starts_over_a_stale_pid_file(folder: Path) -> None:
    alive = f"{os.getpid()}\n/elsewhere\n"  # the number went to another process
    for content in ("", "not a number\n", alive):
        (folder / "data" / "postmaster.pid").write_text(content)
        assert not running(folder)
        with EmbeddedPostgres(folder) as server:
            assert can_connect(server.url)


def test_an_interrupted_initialisation_is_begun_anew(empty: Path) -> None:
    (empty / "data.partial").mkdir()
    (empty / "data.partial" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(empty) as server:
        assert can_connect(server.url)


def test_a_long_path_works(empty: Path) -> None:
    deep = empty / ("long" * 25) / "with space, 100% and 'quotes'"
    with EmbeddedPostgres(deep) as server, Database.open(server.url) as database:
        assert len(str(deep)) > 107
        assert database.optuna_storage().get_all_studies() == []
        socket_folder = Path(str(sa.make_url(server.url).query["host"]))
        assert socket_folder.is_dir()
    assert not running(deep)
    assert not socket_folder.exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(empty: Path) -> None:
    (empty / "file").write_text("")
    with pytest.raises(DatabaseError, match=r"embedded Postgres in .*/file/folder: .*--database"):
        EmbeddedPostgres(empty / "file" / "folder").__enter__()


def test_a_folder_in_use_on_another_machine_is_refused(folder: Path) -> None:
    (folder / "host").write_text("elsewhere")
    with (folder / "users").open("a+b") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with pytest.raises(DatabaseError, match="in use on elsewhere"):
            EmbeddedPostgres(folder).__enter__()
    with EmbeddedPostgres(folder) as server:
        assert can_connect(server.url)


def test_a_crashed_server_is_started_again_by_the_next_user(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        cut_power(folder / "data")
        with EmbeddedPostgres(folder) as server:
            assert can_connect(server.url)
        assert can_connect(server.url)
    assert not running(folder)


def test_the_log_is_shown_when_the_server_does_not_start(folder: Path) -> None:
    with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("nonsense = on\n")
    with pytest.raises(DatabaseError, match=r"its log ends: .*errors") as caught:
        EmbeddedPostgres(folder).__enter__()
    assert "\n" not in str(caught.value)
    assert not running(folder)


def test_data_of_another_version_is_left_alone(empty: Path) -> None:
    (empty / "data").mkdir()
    (empty / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseError, match="made by Postgres 12, the one installed is 18"):
        EmbeddedPostgres(empty).__enter__()


def can_connect(url: str) -> bool:
    psycopg2.connect(url).close()
    return True


def cut_power(data: Path) -> None:
    """End every process of the server at once, leaving its files as they are."""
    server = psutil.Process(int((data / "postmaster.pid").read_text().split("\n")[0]))
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.kill()
    deadline = time.monotonic() + 10
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
