"""Trial worker and evaluation worker on one device, in turns: both real, on a CPU."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from turns_lab import WatchedStudy, overlapping
from worker_lab import leases_of, story

from storage.database import Database
from storage.turns import Turn
from storage.workers import Workers
from workers.devices import device_identity

pytestmark = pytest.mark.postgres

EXAMPLES = 800


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
    watched = study("turns", trials=1, examples=4000)
    workers = {kind: watched.start(kind) for kind in ("evaluation", "trial")}
    record = leases_of(database, watched.spec)._study_id
    for kind in ("trial", "evaluation", "trial"):
        # While it computes, it has the turn.
        _until(lambda kind=kind: len(watched.computing()) > 20 and _last(watched) == kind)
        workers[kind].kill()
        workers[kind].wait()
        Workers(database).free_absent(record)
        workers[kind] = watched.start(kind)
        seen = len(watched.computing())
        _until(lambda seen=seen: len(watched.computing()) > seen + 20)
    for worker in workers.values():
        assert worker.wait(120) == 0, watched.log("trial") + watched.log("evaluation")
    assert not overlapping(watched.computing())
    (trial,) = story(database, watched.spec).values()
    assert trial["state"] == "COMPLETE"


def _last(watched: WatchedStudy) -> str:
    return watched.computing()[-1].kind


def test_a_stop_while_waiting_for_the_turn_ends_both_cleanly(
    study: Callable[..., WatchedStudy], database: Database, turn: Turn
) -> None:
    watched = study("turns", trials=1, examples=4000)
    workers = {kind: watched.start(kind) for kind in ("evaluation", "trial")}
    record = leases_of(database, watched.spec)._study_id
    _until(lambda: len(watched.computing()) > 20)
    _until(lambda: turn.wait(0.1))

    def phases() -> list[str]:
        return [worker.phase for worker in Workers(database).present(record)]

    waiting = "waiting for its turn on cpu"
    _until(lambda: phases().count(waiting) == 2)
    seen = len(watched.computing())
    # Longer than a lease: it is renewed meanwhile.
    time.sleep(9)
    assert phases() == [waiting] * 2
    assert len(watched.computing()) == seen
    for worker in workers.values():
        worker.send_signal(signal.SIGINT)
        assert worker.wait(10) == 0
    assert "suspended" in watched.log("trial")
    assert "Traceback" not in watched.log("trial") + watched.log("evaluation")
    assert turn.line() is not None
    turn.give()
    for worker in [watched.start(kind) for kind in ("evaluation", "trial")]:
        assert worker.wait(120) == 0
    (trial,) = story(database, watched.spec).values()
    assert trial["state"] == "COMPLETE"
    (lease,) = leases_of(database, watched.spec).attempts(0)[:1]
    assert lease.outcome == "suspended"


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
