"""A study in a fresh database, and what its workers use."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from storage.database import Database
from storage.queue import EvaluationQueue
from storage.studies import Studies
from storage.trials import TrialLease, TrialLeases

STUDY = 7
LEASE_SECONDS = 30.0


@pytest.fixture
def study(database: Database) -> int:
    Studies(database).insert(id=STUDY, name="study", spec={}, identity={}, checkpoints="/nowhere")
    return STUDY


@pytest.fixture
def leases(database: Database, study: int) -> TrialLeases:
    return TrialLeases(database, study, seconds=LEASE_SECONDS)


@pytest.fixture
def queue(database: Database, study: int) -> EvaluationQueue:
    return EvaluationQueue(database, study, seconds=LEASE_SECONDS)


@pytest.fixture
def acquire(leases: TrialLeases) -> Callable[[str], TrialLease | None]:
    """Acquire a trial of a study without orphans and with plenty of budget."""
    numbers = itertools.count()

    def ask() -> tuple[int, int]:
        number = next(numbers)
        return 100 + number, number

    return lambda worker: leases.acquire(worker, budget=100, orphans=list, ask=ask)


@pytest.fixture
def lease(acquire: Callable[[str], TrialLease | None]) -> TrialLease:
    """Trial 0, held by worker `trainer`."""
    taken = acquire("trainer")
    assert taken is not None
    return taken
