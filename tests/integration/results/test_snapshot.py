from __future__ import annotations

import json
from pathlib import Path

import pytest
from played import PlayedStudy

from hpo.results.snapshot import Snapshot, TrialView
from hpo.search.asha import Verdict
from hpo.search.course import Ending, Outcome
from hpo.search.register import register
from hpo.spec.errors import StudyError
from storage.database import Database
from storage.studies import Studies
from storage.workers import Workers, new_worker_id, session_name

pytestmark = pytest.mark.postgres


def trial(snapshot: Snapshot, number: int) -> TrialView:
    return next(trial for trial in snapshot.trials if trial.number == number)


def test_a_study_without_workers_is_idle(played: PlayedStudy) -> None:
    snapshot = played.view.read()
    assert (snapshot.name, snapshot.state, snapshot.budget) == ("played", "idle", 6)
    assert (snapshot.metric, snapshot.direction) == ("loss", "minimize")
    assert snapshot.workers == []
    assert snapshot.ended == 4
    assert not played.view.over()


def test_a_study_with_a_worker_is_running(played: PlayedStudy) -> None:
    worker = new_worker_id()
    with Database.open(played.database.url, application_name=session_name(worker)) as its_own:
        workers = Workers(its_own)
        workers.register("trial", played.record.id, "cpu", worker_id=worker)
        workers.phase(worker, "trial 4: batch 7 of 9")
        snapshot = played.view.read()
        assert snapshot.state == "running"
        [seen] = snapshot.workers
        assert (seen.kind, seen.device, seen.phase) == ("trial", "cpu", "trial 4: batch 7 of 9")
    assert played.view.read().state == "idle"


def test_a_study_can_be_stopped_and_resumed(played: PlayedStudy) -> None:
    view = played.view
    Studies(played.database).request_stop(played.record.id)
    assert view.read().state == "idle"
    view.refresh()
    assert view.read().state == "stopped"
    Studies(played.database).resume(played.record.id)
    view.refresh()
    assert view.read().state == "idle"


def test_a_study_is_finished_with_its_budget(played: PlayedStudy) -> None:
    played.play(4, [(1, 100, 0.5, 1)], "complete")
    lease = played.lease()
    assert (played.view.read().state, played.view.over()) == ("idle", False)
    played.search.tell(lease.trial_id, Ending(Outcome.PRUNED, "why"))
    played.trials.finish(lease, "pruned")
    Studies(played.database).request_stop(played.record.id)
    view = played.view
    view.refresh()
    assert (view.read().state, view.over()) == ("finished", True)


def test_a_lowered_budget_waits_for_the_trial_that_runs(
    played: PlayedStudy, tmp_path: Path
) -> None:
    lease = played.lease()
    smaller = played.spec.model_copy(
        update={"budget": played.spec.budget.model_copy(update={"trials": 3})}
    )
    view = played.view
    register(played.database, smaller, tmp_path)
    view.refresh()
    assert (view.read().budget, view.read().state, view.over()) == (3, "idle", False)
    played.search.tell(lease.trial_id, Ending(Outcome.PRUNED, "why"))
    played.trials.finish(lease, "pruned")
    assert (view.read().state, view.over()) == ("finished", True)


def test_a_raised_budget_reopens_a_study(played: PlayedStudy, tmp_path: Path) -> None:
    smaller = played.spec.model_copy(
        update={"budget": played.spec.budget.model_copy(update={"trials": 4})}
    )
    played.record, created = register(played.database, smaller, tmp_path)
    assert not created
    assert played.view.read().state == "finished"
    played.record, _ = register(played.database, played.spec, tmp_path)
    assert played.view.read().state == "idle"


def test_a_complete_trial(played: PlayedStudy) -> None:
    snapshot = played.view.read()
    found = trial(snapshot, 0)
    assert snapshot.best_trial() == found
    assert (found.state, found.outcome, found.reason) == (
        "COMPLETE",
        "complete",
        "why it was complete",
    )
    assert (found.value, found.loss, found.accuracy) == (0.25, 0.25, 0.75)
    assert (found.best_step, found.best_examples, found.step, found.examples) == (5, 500, 9, 900)
    assert found.rungs == [
        Verdict(100, 1.0, True, 1, 1, 1.0),
        Verdict(900, 0.5, True, 1, 1, 0.5),
    ]
    assert found.seconds is not None
    assert not found.held


def test_a_pruned_trial_shows_its_verdict(played: PlayedStudy) -> None:
    found = trial(played.view.read(), 1)
    assert (found.state, found.value, found.loss) == ("PRUNED", 1.5, 1.5)
    assert found.rungs == [Verdict(100, 1.5, False, 2, 2, 1.0)]


def test_the_value_of_a_pruned_trial_is_its_best_too(played: PlayedStudy) -> None:
    played.play(4, [(1, 100, 0.75, 4), (5, None, 1.0, 3), (9, 900, 1.25, 2)], "pruned")
    found = trial(played.view.read(), 4)
    assert (found.value, found.loss, found.accuracy) == (0.75, 0.75, 0.5)
    assert (found.best_step, found.step) == (1, 9)


def test_a_running_trial(played: PlayedStudy) -> None:
    lease = played.lease("somebody")
    played.score(lease, 1, 100, 0.75, 4)
    played.queue.put(lease, step=2, examples=200, rung=None, checkpoint="c")
    snapshot = played.view.read()
    found = trial(snapshot, lease.number)
    assert (found.state, found.value, found.loss, found.step) == ("RUNNING", None, 0.75, 1)
    assert (found.attempts, found.held, found.seconds) == (1, True, None)
    assert snapshot.counts() == {"RUNNING": 1, "COMPLETE": 1, "PRUNED": 2, "FAIL": 1}
    assert snapshot.evaluations == {"done": 7, "open": 1}
    played.trials.release(lease)
    assert not trial(played.view.read(), lease.number).held
    again = played.lease("another")
    assert trial(played.view.read(), again.number).attempts == 2


def test_the_base_model_has_scores(played: PlayedStudy) -> None:
    base = played.view.read().base
    assert base is not None
    assert (base["loss"], base["correct"]) == (2.0, 1)


def test_a_snapshot_is_json(played: PlayedStudy) -> None:
    played.lease()
    content = json.loads(json.dumps(played.view.read().as_dict(), allow_nan=False))
    assert content["trials"] == {"RUNNING": 1, "COMPLETE": 1, "PRUNED": 2, "FAIL": 1}
    assert [row["number"] for row in content["history"]] == [0, 1, 2, 3, 4]
    assert content["history"][0]["rungs"][0]["keep"] is True
    assert content["history"][4]["finished"] is None
    assert content["best"] == 0


def test_a_deleted_study_is_told(played: PlayedStudy) -> None:
    view = played.view
    Studies(played.database).delete(played.record.id)
    with pytest.raises(StudyError, match="'played', which is not in this database"):
        view.refresh()
