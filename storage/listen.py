"""Waking up when another process changed something in a study.

Writers notify in the transaction that writes, so a listener that wakes sees
what was written. A notification is a hint to look, never the news itself.
"""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import connection as Psycopg2Connection
from sqlalchemy import Connection

from storage.closing import Closing
from storage.database import Database

RECONNECT_SECONDS = 1.0


def channel(study_id: int) -> str:
    """Name of a study's notification channel."""
    return f"hpo_study_{study_id}"


def notify(connection: Connection, study_id: int) -> None:
    """Wake the study's listeners once the transaction has committed."""
    connection.execute(sa.select(sa.func.pg_notify(channel(study_id), "")))


class Listener(Closing):
    """Tells that a study changed. For one thread at a time."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._database = database
        self._channel = channel(study_id)
        self._connection: Psycopg2Connection | None = self._connect()
        self._retry_at = 0.0

    def poll(self) -> bool:
        """Whether something changed since the last call; costs tens of microseconds.

        A connection that broke is opened anew, which can take longer, and
        answers True, because what was notified meanwhile is lost.
        """
        if self._connection is None:
            return self._reconnect()
        try:
            self._connection.poll()
        except psycopg2.Error:
            self.close()
            return self._reconnect()
        changed = bool(self._connection.notifies)
        self._connection.notifies.clear()
        return changed

    def wait(self, timeout: float) -> bool:
        """Sleep until something changes, at most `timeout` seconds; whether it did."""
        deadline = time.monotonic() + timeout
        while not self.poll():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._sleep(left)
        return True

    def close(self) -> None:
        """Give the connection back to the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sleep(self, seconds: float) -> None:
        if self._connection is None:
            time.sleep(min(seconds, RECONNECT_SECONDS))
            return
        poller = select.poll()
        poller.register(self._connection.fileno(), select.POLLIN)
        poller.poll(max(1, seconds * 1000))

    def _reconnect(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        try:
            self._connection = self._connect()
        except psycopg2.Error:
            # The server is away; whoever waits finds out by its own polling.
            self._retry_at = time.monotonic() + RECONNECT_SECONDS
            return False
        return True

    def _connect(self) -> Psycopg2Connection:
        # Out of the pool for good: a listening session must not be lent to a transaction.
        pooled = self._database.engine.raw_connection()
        pooled.detach()
        connection: Any = pooled.dbapi_connection
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'LISTEN "{self._channel}"')
        listening: Psycopg2Connection = connection
        return listening
