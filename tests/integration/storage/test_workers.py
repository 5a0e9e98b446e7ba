"""Presence of workers, seen through their database sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from storage.database import Database
from storage.queue import EvaluationQueue
from storage.trials import TrialLease, TrialLeases
from storage.workers import Workers, new_worker_id, session_name

pytestmark = pytest.mark.postgres

WORKER = """
import sys
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.trials import TrialLeases
from storage.workers import Workers, session_name
url, study, worker = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Database.open(url, application_name=session_name(worker)) as database:
    Workers(database).register("trial", study, "cpu", worker_id=worker)
    TrialLeases(database, study, seconds=600).acquire(
        worker, budget=2, orphans=list, ask=lambda: (900, 9))
    EvaluationQueue(database, study, seconds=600).claim(worker)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_session_name_fits() -> None:
    assert len(session_name(new_worker_id()).encode()) <= 63


def test_a_worker_is_present_while_its_session_lives(database: Database, study: int) -> None:
    workers = Workers(database)
    identifier = workers.register("evaluation", study, "cuda:1")
    assert workers.present(study) == []
    with Database.open(database.url, application_name=session_name(identifier)):
        workers.phase(identifier, "generating")
        (row,) = workers.present(study)
        assert (row.id, row.kind, row.device) == (identifier, "evaluation", "cuda:1")
        assert (row.pid, row.phase) == (os.getpid(), "generating")
        assert workers.present(study + 1) == []
    _until_absent(workers, study)


def test_a_killed_workers_work_is_free_at_once(
    database: Database,
    leases: TrialLeases,
    queue: EvaluationQueue,
    lease: TrialLease,
) -> None:
    queue.put(lease, step=1, examples=8, rung=None, checkpoint="c")
    workers = Workers(database)
    dead = new_worker_id()
    arguments = [database.url, str(lease.study_id), dead]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert [row.id for row in workers.present(lease.study_id)] == [dead]
        assert workers.free_absent(lease.study_id) == 0
        assert queue.claim("evaluator") is None
        process.send_signal(signal.SIGKILL)
    _until_absent(workers, lease.study_id)
    assert workers.free_absent(lease.study_id) == 2
    assert workers.free_absent(lease.study_id) == 0
    leases.renew(lease)
    taken = leases.acquire("heir", budget=2, orphans=list, ask=lambda: (0, 0))
    assert taken is not None
    assert (taken.number, taken.fence) == (9, 2)
    claimed = queue.claim("evaluator")
    assert claimed is not None
    assert claimed.attempts == 2


def test_what_an_outage_interrupted_does_not_count_as_an_attempt(
    database: Database, leases: TrialLeases, queue: EvaluationQueue
) -> None:
    lease = leases.acquire("gone", budget=2, orphans=list, ask=lambda: (0, 9))
    assert lease is not None
    queue.put(lease, step=1, examples=8, rung=None, checkpoint="c")
    workers = Workers(database)
    for _ in range(4):
        # A worker that was registered but has no session.
        claimed = queue.claim(workers.register("evaluation", lease.study_id, "cpu"))
        assert claimed is not None
        assert claimed.attempts == 1
        workers.free_absent(lease.study_id, untried=True)


def _until_absent(workers: Workers, study: int) -> None:
    deadline = time.monotonic() + 5
    while workers.present(study):
        assert time.monotonic() < deadline
        time.sleep(0.02)
