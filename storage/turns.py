"""Whose turn a device is: one process computes on it at a time, then the next in line.

A turn is an advisory lock of the database. The session that holds it does
nothing else, and the lock ends with it, however the holder ends: there is no
lease to run out. The server keeps the line: who waits longest is next, and a
process that gives its turn away and asks again stands behind those who wait.

Sessions must be with the server itself. A pooler that lends them by
transaction would leave the lock with a session that nobody has.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import QueryCanceledError

from storage.closing import Closing
from storage.database import AdvisoryLock, Database
from storage.waiting import ANSWER_SECONDS, WaitingSession

logger = logging.getLogger(__name__)

APPLICATION_NAME = "hpo-turn"
"""Not the worker's own: a session that waits for a lock outlives its process
by a moment, and a worker is present while a session bears its name."""
RETRY_SECONDS = 1.0

ENTER = "SELECT pg_advisory_lock_shared(%s, %s)"
TAKE = "SELECT pg_advisory_lock(%s, %s)"
GIVE = "SELECT pg_advisory_unlock(%s, %s)"
# The halves of a key are signed where a lock is taken and unsigned where it is listed.
LOOK = """
    SELECT
        coalesce(bool_or(of_turn AND granted AND pid = pg_backend_pid()), false),
        coalesce(bool_or(of_turn AND NOT granted), false),
        count(*) FILTER (WHERE NOT of_turn AND pid <> pg_backend_pid())
    FROM (
        SELECT classid = %s::bigint::oid AS of_turn, granted, pid
        FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid IN (%s::bigint::oid, %s::bigint::oid)
            AND objid = %s::bigint::oid
    ) AS locks
"""


@dataclass(frozen=True)
class Line:
    """Who else uses a device in turns."""

    waiting: bool
    """Whether somebody stands in line."""
    others: int
    """Processes that take turns, those that do not wait now among them."""


def device_key(device: str) -> int:
    """Second key of a device's locks: 32 bits, signed, of its name's hash."""
    digest = hashlib.sha256(device.encode()).digest()
    return int.from_bytes(digest[:4], "big", signed=True)


class Turn(Closing):
    """One process's turn of one device, in all studies of a database. For one thread.

    `device` is the same text in all processes that may use the device, and in
    no others.
    """

    def __init__(self, database: Database, device: str) -> None:
        self._database = database
        self._device = device
        self._key = device_key(device)
        self._session: WaitingSession | None = None
        self._queued = False
        self._held = False
        self._away = False

    def holds(self) -> bool:
        """Whether the turn is ours; a session that was ended shows, without a question.

        It takes microseconds.
        """
        if self._held and self._session is not None:
            try:
                self._session.check()
            except psycopg2.Error as error:
                self._drop(error)
        return self._held

    def wait(self, seconds: float) -> bool:
        """Stand in line, for about so long; whether the turn is ours.

        The place in the line is kept between calls. A database that is away
        is asked again in later calls, and the place is lost.
        """
        if self._held:
            return True
        try:
            session = self._in_line()
            if session.answered(seconds):
                self._queued, self._held = False, True
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self._drop(error)
            time.sleep(min(RETRY_SECONDS, seconds))
        return self._held

    def line(self) -> Line | None:
        """Who else is there, or None when the turn is not ours; one query."""
        if not self._held or self._session is None:
            return None
        turn, takers = AdvisoryLock.TURN, AdvisoryLock.TURN_TAKERS
        try:
            row = self._session.ask(LOOK, turn, turn, takers, self._key & 0xFFFFFFFF)
            held, waiting, others = row
            if not held:
                raise psycopg2.OperationalError("the session holds no lock")
        except psycopg2.Error as error:
            self._drop(error)
            return None
        return Line(waiting, others)

    def give(self) -> None:
        """Give the turn to who waits longest, or leave the line; nothing where it is lost."""
        if self._session is None:
            return
        try:
            if self._queued:
                self._leave_line(self._session)
            if self._held:
                self._session.ask(GIVE, AdvisoryLock.TURN, self._key)
        except psycopg2.Error as error:
            # A session that ends gives up what it holds.
            self._drop(error)
        self._held = False

    def close(self) -> None:
        """Give the turn away and end the session."""
        self.give()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _in_line(self) -> WaitingSession:
        if self._session is None:
            self._session = WaitingSession(self._database, application_name=APPLICATION_NAME)
            self._away = False
            self._session.ask(ENTER, AdvisoryLock.TURN_TAKERS, self._key)
        if not self._queued:
            self._session.send(TAKE, AdvisoryLock.TURN, self._key)
            self._queued = True
        return self._session

    def _leave_line(self, session: WaitingSession) -> None:
        """Withdraw; a turn that came meanwhile is ours."""
        session.cancel()
        self._queued = False
        try:
            self._held = session.answered(ANSWER_SECONDS)
        except QueryCanceledError:
            self._held = False

    def _drop(self, error: psycopg2.Error) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._queued, self._held = None, False, False
        if not self._away:
            reason = " ".join(str(error).split())
            logger.warning("no session for the turns of %s: %s", self._device, reason)
        self._away = True
