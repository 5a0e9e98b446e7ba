"""A database that is away for a while: restarted, failed over, cut off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from hpo.spec.errors import DatabaseError, HpoError

LONGEST_OUTAGE_SECONDS = 600.0
"""So long a run waits for its database to come back."""


def is_away(error: BaseException | None) -> bool:
    """Whether the server could not be reached or dropped a connection.

    Optuna's errors and ours name what SQLAlchemy raised as their cause.
    """
    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            return True
        if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def reason(error: BaseException) -> str:
    """What the server or the driver said, on one line."""
    while error.__cause__ is not None and not isinstance(error, DBAPIError | HpoError):
        error = error.__cause__
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())


@contextmanager
def unless_away() -> Iterator[None]:
    """Leave out what needs the database if it is away."""
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise


class Outage:
    """Waits for a database, and says so once."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._since: float | None = None
        self.last = float("-inf")
        """When the database was last found away, by `time.monotonic`."""

    def found(self, error: Exception) -> None:
        """The database is away; raises DatabaseError when it has been for too long."""
        self.last = time.monotonic()
        if self._since is None:
            self._since = self.last
            self._note(f"the database is away: {reason(error)}; waiting")
        if self.last - self._since > LONGEST_OUTAGE_SECONDS:
            raise DatabaseError(
                f"the database has been away for {LONGEST_OUTAGE_SECONDS / 60:.0f} minutes: "
                f"{reason(error)}; bring it back, then run the study again: it goes on"
            ) from error

    def over(self) -> None:
        """The database answered."""
        if self._since is not None:
            self._since = None
            self._note("the database is back")
