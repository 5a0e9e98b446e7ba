"""No trial pays for a fault of its surroundings, and a bug burns no budget."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from test_trial_worker import answer_all, checkpoints_of, wait_for
from worker_lab import Lab, leases_of, queue_of, story

from hpo.search.course import Outcome
from hpo.search.study import StudySearch
from hpo.spec.errors import InputError
from storage.database import Database
from storage.studies import Studies
from workers.session import open_session
from workers.stop import StopSignal
from workers.trial.loop.run import TrainingRun
from workers.trial.tracking import NoTracker, tracking
from workers.trial.worker import TrialWorker, WorkerStopped

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_a_checkpoint_folder_that_cannot_be_written_ends_the_worker_not_the_trial(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=2)
    root = checkpoints_of(database, lab).root
    root.parent.mkdir(parents=True)
    root.write_text("in the way")
    assert lab.start().wait(60) == 1
    row = leases_of(database, lab.spec).rows()[0]
    assert (row.state, row.worker_id) == ("running", None)
    assert leases_of(database, lab.spec).attempts(0)[0].outcome == "interrupted"

    root.unlink()
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
    told = story(database, lab.spec)
    assert len(told) == 2
    assert told[0]["state"] == "COMPLETE"


def test_an_unforeseen_error_is_tried_again_and_trial_after_trial_stops_the_worker(
    make_lab: Callable[..., Lab], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(trials=9)
    tries = 0

    def fail(_: TrainingRun) -> None:
        nonlocal tries
        tries += 1
        raise KeyError("surprise")

    monkeypatch.setattr(TrainingRun, "train_batch", fail)
    with open_session("trial", lab.options(), StopSignal()) as session:
        worker = TrialWorker.load(session, torch.device("cpu"))
        with pytest.raises(WorkerStopped, match="3 trials in a row failed 3 times each"):
            worker.run()
    assert tries == 9
    assert [trial["outcome"] for trial in story(database, lab.spec).values()] == ["bug"] * 3


def test_a_cancelled_request_is_put_again_by_the_next_attempt(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1)
    queue = queue_of(database, lab.spec)
    first = lab.start()
    wait_for(lambda: queue.pending(0) == 2, lab)
    first.terminate()
    assert first.wait(30) == 0
    # What is left when a worker dies between cancelling and telling.
    queue.cancel(0, after_step=0)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE hpo.trial SET state_address = NULL, state_step = 0")
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
    assert story(database, lab.spec)[0]["state"] == "COMPLETE"


def test_a_damaged_training_state_costs_the_steps_not_the_trial(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    whole = make_lab(name="whole", trials=1)
    whole.start()
    with whole.evaluator() as evaluator:
        answer_all(whole, evaluator)

    lab = make_lab(trials=1)
    leases = leases_of(database, lab.spec)
    first = lab.start()
    wait_for(lambda: queue_of(database, lab.spec).pending(0) == 2, lab)
    first.terminate()
    assert first.wait(30) == 0
    (state,) = checkpoints_of(database, lab).root.rglob("training_state.pt")
    state.write_bytes(state.read_bytes()[:100])
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
    assert "starts anew" in lab.log()
    assert story(database, lab.spec) == story(database, whole.spec)
    assert [attempt.outcome for attempt in leases.attempts(0)] == ["suspended", "finished"]


def test_an_evaluation_worker_without_the_checkpoint_folder_blames_no_trial(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1)
    queue = queue_of(database, lab.spec)
    trainer = lab.start()
    with lab.evaluator() as evaluator:
        base = evaluator.claim()
        assert base is not None
        evaluator.answer(base)
        wait_for(lambda: queue.pending(0) == 2, lab)
        # It may still be writing a state, which is not what this is about.
        trainer.send_signal(signal.SIGSTOP)
        root = checkpoints_of(database, lab).root
        away = root.with_name("away")
        shutil.move(root, away)
        request = evaluator.claim()
        assert request is not None
        with pytest.raises(InputError, match="not visible here"):
            evaluator.answer(request)
        shutil.move(away, root)
        trainer.send_signal(signal.SIGCONT)
        answer_all(lab, evaluator)
    assert story(database, lab.spec)[0]["state"] == "COMPLETE"


def test_a_tracker_that_cannot_be_reached_costs_no_trial(
    make_lab: Callable[..., Lab], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(trials=1)
    content = lab.spec.model_dump(mode="json")
    content["tracking"] = {"wandb": {"project": "p"}}
    spec = type(lab.spec).model_validate(content)
    record = Studies(database).get("lab")
    assert record is not None

    def unreachable(**_: Any) -> None:
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", unreachable)
    with tracking(record, spec, 0, {}, dict) as tracker:
        assert isinstance(tracker, NoTracker)


def test_cleaning_up_spares_the_winner_of_another_worker(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    from workers.trial.retention import clean_up

    lab = make_lab(trials=3)
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
        store = checkpoints_of(database, lab)
        best = StudySearch(database.optuna_storage(), lab.spec).best_checkpoint()
        assert best is not None
        _litter(store.root, best)
        clean_up(evaluator.session)
        assert store.addresses() == [best]
        assert store.exists(best)
        assert not list(store.root.rglob("*.partial"))
        # A trial that began meanwhile is none of the ended ones.
        assert (store.root / "trial-00099" / "attempt-1").is_dir()
    outcomes = {row.outcome for row in leases_of(database, lab.spec).rows()}
    assert outcomes <= {Outcome.COMPLETE, Outcome.PRUNED}


def _litter(root: Path, best: str) -> None:
    """What killed writers leave behind, in ended trials and in one that just began."""
    for folder in ("trial-00000/attempt-1/.step.partial", f"{best}/../.state.partial"):
        (root / folder).resolve().mkdir(parents=True, exist_ok=True)
    (root / "trial-00099" / "attempt-1").mkdir(parents=True)
