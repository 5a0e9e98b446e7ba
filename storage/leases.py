"""What leases of trials and claims of evaluations have in common.

A lease is a worker's name and a time until which it holds, by the database's
clock. Time that passed inside a transaction counts, hence `clock_timestamp()`
and not `now()`, which stands still from the transaction's begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from storage.listen import notify


def expiry(seconds: float) -> sa.ColumnElement[Any]:
    """The time at which a lease taken now ends."""
    return sa.func.clock_timestamp() + timedelta(seconds=seconds)


def live(table: Table) -> sa.ColumnElement[bool]:
    """Somebody holds the row now."""
    return sa.and_(
        table.c.lease_expires_at.is_not(None),
        table.c.lease_expires_at > sa.func.clock_timestamp(),
    )


def expire(
    connection: Connection,
    table: Table,
    study_id: int,
    workers: Sequence[str] | sa.Select[Any],
) -> int:
    """End the leases of these workers now; how many there were."""
    statement = (
        sa.update(table)
        .where(table.c.study_id == study_id, live(table), table.c.worker_id.in_(workers))
        .values(lease_expires_at=sa.func.clock_timestamp())
    )
    count = connection.execute(statement).rowcount
    if count:
        notify(connection, study_id)
    return count
