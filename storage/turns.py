"""Whose turn a device is: one process computes on it at a time, the next in line comes after it.

A turn is an advisory lock of the database. It is held by a session of its own
and ends with it, however the holder ends, so there is no lease to run out.
The server keeps the line: who waits longest is next, and a process that gives
its turn away and asks again stands behind those who wait.

The connection must lead to the server itself. A pooler that lends sessions by
transaction would leave the lock with a session that nobody has.
"""

from __future__ import annotations

import hashlib
import logging
import select
import time
from types import TracebackType
from typing import Any, Self

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_WRITE,
    QueryCanceledError,
)
from psycopg2.extensions import connection as Psycopg2Connection
from psycopg2.extensions import cursor as Psycopg2Cursor

from storage.database import CONNECT_TIMEOUT_SECONDS, AdvisoryLock, Database

logger = logging.getLogger(__name__)

APPLICATION_NAME = "hpo-turn"
"""Not the worker's own name: a session that waits for a lock outlives its
process by a moment, and presence is read from the sessions with that name."""
ANSWER_SECONDS = 10.0
"""A server that is silent for so long about a turn has lost it."""
RETRY_SECONDS = 1.0

# A session that waits or holds says nothing for hours. Where the network
# forgets it, the server must notice within a minute, or the turn is nobody's.
SETTINGS = """
    SELECT set_config(name, value, false), pg_advisory_lock_shared(%s, %s)
    FROM pg_settings JOIN (VALUES
        ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_session_timeout', '0'),
        ('tcp_keepalives_idle', '30'), ('tcp_keepalives_interval', '10'),
        ('tcp_keepalives_count', '3')
    ) AS wanted (name, value) USING (name)
"""
TAKE = "SELECT pg_advisory_lock(%s, %s)"
GIVE = "SELECT pg_advisory_unlock(%s, %s)"
# The halves of a key are signed where a lock is taken and unsigned where it is listed.
LOOK = """
    SELECT
        coalesce(bool_or(of_turn AND granted AND pid = pg_backend_pid()), false),
        coalesce(bool_or(of_turn AND NOT granted), false),
        count(*) FILTER (WHERE NOT of_turn AND pid <> pg_backend_pid())
    FROM (
        SELECT classid = %(turn)s::bigint::oid AS of_turn, granted, pid
        FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid IN (%(turn)s::bigint::oid, %(takers)s::bigint::oid)
            AND objid = %(key)s::bigint::oid
    ) AS locks
"""


class TurnLost(Exception):
    """The connection that held the turn is gone: somebody else may have it by now.

    Whoever gets it stops using the device, then asks for the turn anew.
    """


def device_key(device: str) -> int:
    """Second key of a device's locks: 32 bits, signed, of its name."""
    digest = hashlib.sha256(device.encode()).digest()
    return int.from_bytes(digest[:4], "big", signed=True)


class Turn:
    """One process's turn of one device. For one thread.

    `device` must be the same text in all processes that may use the device,
    and in no others. All studies of a database share it.
    """

    def __init__(self, database: Database, device: str) -> None:
        self._database = database
        self._key = device_key(device)
        self._device = device
        self._connection: Psycopg2Connection | None = None
        self._cursor: Psycopg2Cursor | None = None
        self._queued = False
        self._held = False
        self._retry_at = 0.0

    @property
    def held(self) -> bool:
        """Whether the turn is ours, as far as is known."""
        return self._held

    def wait(self, seconds: float) -> bool:
        """Stand in line, so long at most; whether the turn is ours.

        The place in the line is kept between calls. A database that cannot be
        reached is asked again at a later call, at the end of the line.
        """
        if self._held:
            return True
        deadline = time.monotonic() + seconds
        try:
            if self._enter(deadline) and self._answered(deadline):
                self._queued, self._held = False, True
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self._drop(error)
        if not self._held:
            time.sleep(max(0.0, min(RETRY_SECONDS, deadline - time.monotonic())))
        return self._held

    def wanted(self) -> bool:
        """Whether somebody waits for the turn that is ours; one query. Raises TurnLost."""
        return self._look()[1]

    def others(self) -> int:
        """Other processes that use the device in turns; one query. Raises TurnLost."""
        return self._look()[2]

    def check(self) -> None:
        """Raise TurnLost if the connection broke; asks nobody, takes microseconds."""
        self._require_held()
        assert self._connection is not None
        try:
            while _readable(self._connection):
                self._connection.poll()
        except psycopg2.Error as error:
            self._lose(error)

    def give(self) -> None:
        """Give the turn to who waits longest, or leave the line. A turn that is lost stays so."""
        try:
            if self._queued:
                self._leave_line()
            if self._held:
                self._ask(GIVE, AdvisoryLock.TURN, self._key)
        except psycopg2.Error as error:
            self._drop(error)
        self._held = False

    def close(self) -> None:
        """Give the turn away, and the connection back to the server."""
        self.give()
        self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _enter(self, deadline: float) -> bool:
        """Be in the line, if that can be had now."""
        if self._queued:
            return True
        if self._connection is None:
            if time.monotonic() < self._retry_at:
                return False
            self._connect()
        self._send(TAKE, AdvisoryLock.TURN, self._key)
        self._queued = True
        return True

    def _leave_line(self) -> None:
        """Withdraw; a turn that came meanwhile is ours until it is given."""
        assert self._connection is not None
        self._connection.cancel()
        self._queued = False
        try:
            self._held = self._answered(time.monotonic() + ANSWER_SECONDS)
        except QueryCanceledError:
            return

    def _look(self) -> tuple[bool, bool, int]:
        """Whether the turn is ours, whether others wait, how many others there are."""
        self._require_held()
        unsigned = self._key & 0xFFFFFFFF
        keys = {"turn": int(AdvisoryLock.TURN), "takers": int(AdvisoryLock.TURN_TAKERS)}
        try:
            held, wanted, others = self._ask(LOOK, {**keys, "key": unsigned})
        except psycopg2.Error as error:
            self._lose(error)
        if not held:
            self._lose(psycopg2.OperationalError("another session answered"))
        return held, wanted, others

    def _require_held(self) -> None:
        if not self._held:
            raise RuntimeError(f"the turn of {self._device} is not ours")
