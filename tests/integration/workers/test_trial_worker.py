"""A trial worker process: failures of its trials, stops, deaths, checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
import torch
from warm import WarmProcess
from worker_lab import Lab, ScriptedEvaluator, leases_of, queue_of, story

from hpo.search.study import StudySearch
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.studies import Studies
from storage.trials import TrialLeases
from storage.workers import session_name
from workers.session import open_session
from workers.stop import StopSignal
from workers.trial.worker import TrialWorker

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def answer_all(lab: Lab, evaluator: ScriptedEvaluator, seconds: float = 90) -> None:
    """Answer requests until the youngest worker ends."""
    deadline = time.monotonic() + seconds
    while lab.children[-1].poll() is None:
        assert time.monotonic() < deadline, lab.log()
        request = evaluator.claim()
        if request is None:
            evaluator.session.listener.wait(0.1)
        else:
            evaluator.answer(request)


def wait_for(condition: Callable[[], bool], lab: Lab, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, lab.log()
        time.sleep(0.02)


def checkpoints_of(database: Database, lab: Lab) -> CheckpointStore:
    from pathlib import Path

    record = Studies(database).get(lab.spec.name)
    assert record is not None
    return CheckpointStore(Path(record.checkpoints))


def test_a_diverging_trial_is_pruned_with_a_violated_constraint_and_the_study_goes_on(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=3, learning_rate="{choices: [1.0e-3, 1.0e+30]}", max_examples=72)
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)

    search = StudySearch(database.optuna_storage(), lab.spec)
    trials = search.study.get_trials()
    hopeless = [t for t in trials if t.params["optimizer.learning_rate"] > 1]
    sound = [t for t in trials if t.params["optimizer.learning_rate"] < 1]
    assert len(trials) == 3
    assert hopeless, "the seed draws both learning rates"
    assert sound, "the seed draws both learning rates"
    for trial in hopeless:
        assert trial.state.name == "PRUNED"
        assert trial.constraints == {"diverged": 1.0}
        assert "not finite" in trial.user_attrs["reason"] or "nan" in trial.user_attrs["reason"]
    assert all(t.user_attrs["outcome"] in ("complete", "pruned") for t in sound)
    best = search.best_trial()
    assert best is not None
    assert best.params["optimizer.learning_rate"] < 1


def test_a_trial_that_does_not_fit_is_pruned_with_a_violated_constraint(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1)

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("simulated")

    with open_session("trial", lab.options(), StopSignal()) as session:
        worker = TrialWorker.load(session, torch.device("cpu"))
        decoder = worker.model.model.get_decoder()
        decoder.register_forward_pre_hook(out_of_memory)
        worker.run()

    told = story(database, lab.spec)
    assert [trial["state"] for trial in told.values()] == ["PRUNED"]
    assert told[0]["outcome"] == "does_not_fit"
    search = StudySearch(database.optuna_storage(), lab.spec)
    assert all(t.constraints == {"does_not_fit": 1.0} for t in search.study.get_trials())
    assert search.best_trial() is None


def test_a_stopped_trial_goes_on_where_it_was_and_ends_as_if_never_stopped(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    whole = make_lab(name="whole", trials=2, max_examples=1200)
    whole.start()
    with whole.evaluator() as evaluator:
        answer_all(whole, evaluator)

    parted = make_lab(name="parted", trials=2, max_examples=1200)
    leases = leases_of(database, parted.spec)
    first = parted.start()
    wait_for(lambda: any(row.step > 0 for row in leases.rows()), parted)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0, parted.log()
    held = leases.rows()[0]
    assert held.state == "running"
    assert held.worker_id is None
    assert held.step > 0
    parted.start()
    with parted.evaluator() as evaluator:
        answer_all(parted, evaluator)

    assert story(database, parted.spec) == story(database, whole.spec)
    assert [a.outcome for a in leases.attempts(0)] == ["suspended", "finished"]
    assert _sha_of_best(database, parted) == _sha_of_best(database, whole)


def _sha_of_best(database: Database, lab: Lab) -> object:
    import json

    search = StudySearch(database.optuna_storage(), lab.spec)
    address = search.best_checkpoint()
    assert address is not None
    folder = checkpoints_of(database, lab).path(address)
    files = json.loads((folder / "checkpoint.json").read_text())["files"]
    return files["model.safetensors"]["sha256"]


def test_a_killed_worker_costs_no_trial(make_lab: Callable[..., Lab], database: Database) -> None:
    lab = make_lab(trials=3, max_examples=600)
    leases = leases_of(database, lab.spec)
    victim = lab.start()
    wait_for(lambda: any(row.step > 0 for row in leases.rows()), lab)
    victim.kill()
    victim.wait()
    with lab.evaluator() as evaluator:
        wait_for(lambda: _gone(evaluator), lab)
        evaluator.free_dead_workers()
        lab.start()
        answer_all(lab, evaluator)

    told = story(database, lab.spec)
    assert len(told) == 3
    assert all(trial["state"] in ("COMPLETE", "PRUNED") for trial in told.values())
    assert [a.outcome for a in leases.attempts(0)] == ["lost", "finished"]
    assert all(row.state == "finished" for row in leases.rows())


def _gone(evaluator: ScriptedEvaluator) -> bool:
    present = evaluator.session.workers.present(evaluator.session.record.id)
    return all(worker.kind != "trial" for worker in present)


def test_a_frozen_worker_whose_trial_was_taken_over_cannot_write(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1, max_examples=600)
    leases = leases_of(database, lab.spec)
    zombie = lab.start(log="zombie.log")
    wait_for(lambda: any(row.step > 0 for row in leases.rows()), lab)
    holder = leases.rows()[0].worker_id
    assert holder is not None
    wait_for(lambda: _frozen(zombie, holder, database), lab)
    TrialLeases(database, _study_id(database, lab), seconds=60).release_worker(holder)
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
    told = story(database, lab.spec)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(60) == 0, lab.log("zombie.log")

    assert story(database, lab.spec) == told
    assert "taken over by another worker" in lab.log("zombie.log")
    assert [a.outcome for a in leases.attempts(0)] == ["lost", "finished"]


def _frozen(worker: WarmProcess, identifier: str, database: Database) -> bool:
    """Freeze a worker, outside of a transaction: what one has locked, all would wait for."""
    worker.send_signal(signal.SIGSTOP)
    busy = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state <> 'idle'"
    )
    with database.engine.connect() as connection:
        if connection.scalar(busy, {"name": session_name(identifier)}) == 0:
            return True
    worker.send_signal(signal.SIGCONT)
    return False


def _study_id(database: Database, lab: Lab) -> int:
    record = Studies(database).get(lab.spec.name)
    assert record is not None
    return record.id


def test_training_goes_on_during_an_evaluation_with_two_requests_open_at_most(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1, max_examples=648)
    queue = queue_of(database, lab.spec)
    lab.start()
    with lab.evaluator() as evaluator:
        wait_for(lambda: queue.pending(0) == 2, lab)
        first = evaluator.claim()
        assert first is not None
        assert first.trial_id is None, "the base model comes first"
        time.sleep(1.5)
        records = queue.for_trial(0)
        assert [record.rung for record in records] == [24, 72], "trained past the first, no further"
        evaluator.answer(first)
        answer_all(lab, evaluator)
    assert [record.rung for record in queue.for_trial(0)] == [24, 72, 216, 648]


def test_only_the_best_checkpoint_is_left(make_lab: Callable[..., Lab], database: Database) -> None:
    lab = make_lab(trials=4)
    lab.start()
    with lab.evaluator() as evaluator:
        answer_all(lab, evaluator)
    search = StudySearch(database.optuna_storage(), lab.spec)
    left = set(checkpoints_of(database, lab).addresses())
    # What was still being scored when its trial ended is left until the next trial ends.
    records = queue_of(database, lab.spec).recent(99)
    scored = {record.checkpoint for record in records if record.state == "cancelled"}
    assert left - scored == {search.best_checkpoint()}


def test_a_checkpoint_that_was_lost_fails_its_trial_and_the_study_goes_on(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=2)
    queue = queue_of(database, lab.spec)
    lab.start()
    with lab.evaluator() as evaluator:
        wait_for(lambda: queue.pending(0) >= 1, lab)
        address = queue.for_trial(0)[0].checkpoint
        assert address is not None
        checkpoints_of(database, lab).delete(address)
        answer_all(lab, evaluator)
    told = story(database, lab.spec)
    assert told[0]["state"] == "FAIL"
    assert "no complete checkpoint" in told[0]["reason"]
    assert told[1]["state"] == "COMPLETE"


def test_a_trial_ended_by_a_person_frees_the_worker_for_the_next(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=2)
    queue = queue_of(database, lab.spec)
    lab.start()
    with lab.evaluator() as evaluator:
        wait_for(lambda: queue.pending(0) == 2, lab)
        search = StudySearch(database.optuna_storage(), lab.spec)
        search.study.tell(0, state=__import__("optuna").trial.TrialState.FAIL)
        answer_all(lab, evaluator)
    told = story(database, lab.spec)
    assert told[0]["state"] == "FAIL"
    assert told[1]["state"] == "COMPLETE"
    assert leases_of(database, lab.spec).rows()[0].outcome == "stopped"


def test_a_stop_of_the_study_reaches_a_worker_through_the_database(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=2)
    queue = queue_of(database, lab.spec)
    worker = lab.start()
    wait_for(lambda: queue.pending(0) == 2, lab)
    Studies(database).request_stop(_study_id(database, lab))
    assert worker.wait(30) == 0, lab.log()
    row = leases_of(database, lab.spec).rows()[0]
    assert row.state == "running"
    assert row.worker_id is None
    assert row.step > 0
