"""A Postgres of our own, for whoever has none.

Each user of a folder holds a shared file lock, which the kernel drops with
the process, however it ends: the user who leaves and finds that no other is
left stops the server.

    FOLDER/data     Postgres' data directory
    FOLDER/log      the server's log
    FOLDER/host     name of the machine that the server was started on last
    FOLDER/mutex    locked while the server is started or stopped
    FOLDER/users    locked, shared, by everyone who uses it
"""

from __future__ import annotations

import fcntl
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
import psycopg2
from sqlalchemy import URL

from hpo.spec.errors import DatabaseError
from storage.cluster import PORT, SUPERUSER, Cluster

DATABASE = "hpo"


class EmbeddedPostgres:
    """A context in which the folder's server runs; any number of processes may share it.

    Entering and leaving raise DatabaseError when the server cannot be started
    or stopped. As root the server runs as a system user made for it, and the
    folders above FOLDER are opened for passing through.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self._cluster = Cluster(self.folder)
        self._users: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of the database, for any process of this user on this machine."""
        url = URL.create(
            "postgresql",
            username=SUPERUSER,
            database=DATABASE,
            query={"host": str(self._cluster.socket_folder), "port": PORT},
        )
        # Postgres' own tools do not read a plus sign as a space.
        return url.render_as_string().replace("+", "%20")

    def __enter__(self) -> Self:
        with self._answered():
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._mutex():
                users = (self.folder / "users").open("a+b")
                try:
                    self._start(alone=_alone(users))
                    fcntl.flock(users, fcntl.LOCK_SH)
                except BaseException:
                    users.close()
                    raise
                self._users = users
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        users, self._users = self._users, None
        if users is None:
            return
        with self._answered(), self._mutex(), users:
            if _alone(users):
                self._cluster.stop()

    def _start(self, *, alone: bool) -> None:
        host = self.folder / "host"
        if self._cluster.process() is None:
            if not alone:
                _refuse_another_machine(host)
            self._cluster.start()
            host.write_text(socket.gethostname())
        self._cluster.ensure_database(DATABASE)

    @contextmanager
    def _mutex(self) -> Iterator[None]:
        with (self.folder / "mutex").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn what the system or the server says into one line for a person."""
        try:
            yield
        except (OSError, subprocess.SubprocessError, psycopg2.Error, psutil.Error) as error:
            reason = " ".join(str(error).split())
            last = self._cluster.last_words()
            log = f" (its log ends: {last})" if last else ""
            raise DatabaseError(
                f"embedded Postgres in {self.folder}: {reason}{log}; "
                "repair or move the folder, or use a server of your own with --database"
            ) from error


def running(folder: Path) -> bool:
    """Whether the folder's server runs on this machine."""
    return Cluster(folder.expanduser().resolve()).process() is not None


def _alone(users: IO[bytes]) -> bool:
    """Take the lock for oneself if nobody else holds it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_another_machine(host: Path) -> None:
    """On a shared file system, a second server over the same files would destroy them."""
    name = host.read_text() if host.exists() else "another machine"
    if name != socket.gethostname():
        raise DatabaseError(
            f"the embedded Postgres in {host.parent} is in use on {name}; "
            "several machines need a server of their own, named with --database"
        )
