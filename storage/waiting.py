"""A database session in which one waits for an answer piece by piece.

Meanwhile the server keeps what was asked for, such as the place in the line
for a lock, and the waiting process can do other things.
"""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_WRITE
from psycopg2.extensions import connection as Psycopg2Connection

from storage.database import CONNECT_TIMEOUT_SECONDS, Database

ANSWER_SECONDS = 10.0
"""A server that is silent for so long about a small question is gone."""

# Such a session says nothing for hours. Nobody but its owner may end it, and
# where the network forgets it the server must notice within a minute.
SETTINGS = """
    SELECT set_config(name, value, false)
    FROM pg_settings JOIN (VALUES
        ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_session_timeout', '0'),
        ('tcp_keepalives_idle', '30'), ('tcp_keepalives_interval', '10'),
        ('tcp_keepalives_count', '3')
    ) AS wanted (name, value) USING (name)
"""


class WaitingSession:
    """One session outside every pool, one statement at a time, committed at once.

    Every method raises psycopg2.Error when the session is gone.
    """

    def __init__(self, database: Database, *, application_name: str) -> None:
        """Connect; five seconds at most."""
        arguments = database.connection_arguments(application_name=application_name)
        self._connection: Psycopg2Connection = psycopg2.connect(**arguments, async_=True)
        try:
            if not self._finished(CONNECT_TIMEOUT_SECONDS):
                raise psycopg2.OperationalError("the server does not answer")
            self._cursor = self._connection.cursor()
            self.ask(SETTINGS)
        except BaseException:
            self._connection.close()
            raise

    def send(self, statement: str, *parameters: Any) -> None:
        """Send a statement; `answered` tells when it is done."""
        self._cursor.execute(statement, parameters)

    def answered(self, seconds: float) -> bool:
        """Whether what was sent is done; waits so long at most."""
        return self._finished(seconds)

    def ask(self, statement: str, *parameters: Any) -> tuple[Any, ...]:
        """First row of a statement that takes no time."""
        self.send(statement, *parameters)
        if not self.answered(ANSWER_SECONDS):
            raise psycopg2.OperationalError("the server does not answer")
        row: tuple[Any, ...] | None = self._cursor.fetchone()
        if row is None:
            raise psycopg2.DataError(f"no row for {statement}")
        return row

    def cancel(self) -> None:
        """Withdraw what was sent; `answered` then raises QueryCanceledError, or it was done."""
        self._connection.cancel()

    def check(self) -> None:
        """Raise if the server has ended the session; asks nothing, takes microseconds."""
        while self._ready(select.POLLIN, 0.0):
            self._connection.poll()

    def close(self) -> None:
        """End the session, and all that it holds."""
        self._connection.close()

    def _finished(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (state := self._connection.poll()) != POLL_OK:
            wanted = select.POLLOUT if state == POLL_WRITE else select.POLLIN
            if not self._ready(wanted, max(0.0, deadline - time.monotonic())):
                return False
        return True

    def _ready(self, wanted: int, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._connection.fileno(), wanted)
        return bool(poller.poll(1000 * seconds))
