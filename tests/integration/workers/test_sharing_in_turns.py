"""Trial worker and evaluation worker on one device, in turns: both real, on a CPU."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from turns_lab import LEASE_SECONDS, WatchedStudy, overlapping
from worker_lab import Lab, leases_of, story

from storage.database import Database
from storage.turns import Turn
from storage.workers import Workers
from workers.devices import device_identity
from workers.session import open_session
from workers.stop import StopSignal
from workers.trial.failures import DoesNotFit
from workers.trial.loop.run import TrainingRun
from workers.trial.worker import TrialWorker
from workers.turns import Turns

pytestmark = pytest.mark.postgres

EXAMPLES = 400


@pytest.fixture
def study(
    database: Database, inputs: Path, tmp_path: Path
) -> Iterator[Callable[..., WatchedStudy]]:
    made: list[WatchedStudy] = []

    def make(sharing: str, trials: int = 2, examples: int = EXAMPLES) -> WatchedStudy:
        made.append(WatchedStudy.create(database, inputs, tmp_path, sharing, trials, examples))
        return made[-1]

    yield make
    for one in made:
        one.kill_all()


@pytest.fixture
def turn(database: Database) -> Iterator[Turn]:
    """The turn of the device that the workers use."""
    with Turn(database, device_identity(torch.device("cpu"))) as one:
        yield one


def test_they_never_compute_at_once_and_the_trials_end_the_same(
    study: Callable[..., WatchedStudy], database: Database
) -> None:
    stories = {}
    for sharing in ("turns", "shares"):
        watched = study(sharing)
        for worker in [watched.start("evaluation"), watched.start("trial")]:
            assert worker.wait(120) == 0, watched.log("trial") + watched.log("evaluation")
        stories[sharing] = story(database, watched.spec)
        calls = watched.computing()
        assert {call.kind for call in calls} == {"trial", "evaluation"}
        assert bool(overlapping(calls)) == (sharing == "shares")
    assert [trial["state"] for trial in stories["turns"].values()] == ["COMPLETE"] * 2
    assert stories["turns"] == stories["shares"]


def test_the_other_goes_on_when_the_holder_is_killed(
    study: Callable[..., WatchedStudy], database: Database
) -> None:
    watched = study("turns", trials=1, examples=1600)
    workers = {kind: watched.start(kind) for kind in ("evaluation", "trial")}
    study_id = leases_of(database, watched.spec)._study_id
    for victim, survivor in (("trial", "evaluation"), ("evaluation", "trial")):
        seen = len(watched.computing())
        # Who computes has the turn.
        _until(lambda s=seen, v=victim: any(c.kind == v for c in watched.computing()[s + 5 :]))
        workers[victim].kill()
        workers[victim].wait()
        Workers(database).free_absent(study_id)
        workers[victim] = watched.start(victim)
        killed = time.monotonic()
        _until(lambda k=killed, s=survivor: _computes(watched, s, k))
    for worker in workers.values():
        assert worker.wait(120) == 0, watched.log("trial") + watched.log("evaluation")
    assert not overlapping(watched.computing())
    (trial,) = story(database, watched.spec).values()
    assert trial["state"] == "COMPLETE"


def _computes(watched: WatchedStudy, kind: str, since: float) -> bool:
    return any(call.kind == kind and call.begin > since for call in watched.computing())


def test_a_stop_while_waiting_for_the_turn_ends_both_cleanly(
    study: Callable[..., WatchedStudy], database: Database, turn: Turn
) -> None:
    watched = study("turns", trials=1)
    workers = [watched.start(kind) for kind in ("evaluation", "trial")]
    study_id = leases_of(database, watched.spec)._study_id
    _until(lambda: len(watched.computing()) > 10)
    _until(lambda: turn.wait(0.1))

    def waiting() -> bool:
        phases = [worker.phase for worker in Workers(database).present(study_id)]
        return "waiting for its turn on cpu" in phases

    _until(waiting)
    seen = len(watched.computing())
    # For longer than a lease, which is renewed meanwhile.
    time.sleep(LEASE_SECONDS + 1)
    assert waiting()
    assert len(watched.computing()) == seen
    for worker in workers:
        worker.send_signal(signal.SIGINT)
    for worker in workers:
        assert worker.wait(20) == 0
    assert "suspended" in watched.log("trial")
    assert "Traceback" not in watched.log("trial") + watched.log("evaluation")
    turn.close()
    for worker in [watched.start(kind) for kind in ("evaluation", "trial")]:
        assert worker.wait(120) == 0
    (trial,) = story(database, watched.spec).values()
    assert trial["state"] == "COMPLETE"
    attempts = leases_of(database, watched.spec).attempts(0)
    assert [attempt.outcome for attempt in attempts] == ["suspended", "finished"]


def test_a_lack_of_memory_counts_only_in_a_turn_of_ones_own(
    make_lab: Callable[..., Lab], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(trials=1)
    disturbed = iter([True, False])

    def train_batch(run: TrainingRun) -> None:
        raise DoesNotFit("out of memory at micro-batch 1")

    monkeypatch.setattr(TrainingRun, "train_batch", train_batch)
    monkeypatch.setattr(Turns, "disturbed", lambda turns: next(disturbed))
    with open_session("trial", lab.options(), StopSignal()) as session:
        TrialWorker.load(session, torch.device("cpu")).run()
    attempts = leases_of(database, lab.spec).attempts(0)
    assert [attempt.outcome for attempt in attempts] == ["suspended", "finished"]
    assert story(database, lab.spec)[0]["outcome"] == "does_not_fit"


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
