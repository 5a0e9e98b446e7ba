"""Leases of trials: the budget is exact, zombies are refused, nobody is forgotten."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import optuna
import pytest
import sqlalchemy as sa

from hpo.spec.errors import StudyError
from storage.database import Database
from storage.errors import LeaseLost
from storage.queue import EvaluationQueue
from storage.studies import Studies
from storage.trials import TrialLease, TrialLeases

pytestmark = pytest.mark.postgres

Acquire = Callable[[str], TrialLease | None]


def run_out(database: Database, table: str = "trial") -> None:
    """Let time pass until every lease has run out."""
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(f"UPDATE hpo.{table} SET lease_expires_at = now() - interval '1 second'")
        )


def refuse() -> tuple[int, int]:
    raise AssertionError("asked for a trial that nobody needs")


def test_new_trials_up_to_the_budget(leases: TrialLeases) -> None:
    numbers = iter([(100, 0), (101, 1)])
    first, second, third = (
        leases.acquire(worker, budget=2, orphans=list, ask=lambda: next(numbers))
        for worker in ("a", "b", "c")
    )
    assert first is not None
    assert second is not None
    assert (first.trial_id, first.number, first.fence, first.worker_id) == (100, 0, 1, "a")
    assert (second.trial_id, second.number) == (101, 1)
    assert third is None
    assert (leases.count(), leases.unfinished()) == (2, 2)


def test_finished_trials_count_against_the_budget(leases: TrialLeases, lease: TrialLease) -> None:
    leases.finish(lease, "complete")
    assert leases.acquire("b", budget=1, orphans=list, ask=refuse) is None
    assert (leases.count(), leases.unfinished()) == (1, 0)


@pytest.mark.slow
def test_the_budget_is_exact_with_many_processes(database_url: str) -> None:
    with Database.open(database_url) as database:
        study = optuna.create_study(storage=database.optuna_storage(), study_name="study")
        Studies(database).insert(
            id=study._study_id, name="study", spec={}, identity={}, checkpoints="/nowhere"
        )
        with ProcessPoolExecutor(6, mp_context=multiprocessing.get_context("spawn")) as pool:
            taken = list(pool.map(_work_until_none_is_left, [database_url] * 6))
        leases = TrialLeases(database, study._study_id, seconds=30)
        assert sum(taken) == 10
        assert leases.count() == 10
        assert [row.number for row in leases.rows()] == list(range(10))
        assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 10


def _work_until_none_is_left(url: str) -> int:
    with Database.open(url) as database:
        study = optuna.load_study(
            study_name="study",
            storage=database.optuna_storage(),
            sampler=optuna.samplers.RandomSampler(),
            pruner=optuna.pruners.NopPruner(),
        )
        leases = TrialLeases(database, study._study_id, seconds=30)

        def ask() -> tuple[int, int]:
            trial = study.ask()
            return trial._trial_id, trial.number

        taken = 0
        while lease := leases.acquire("worker", budget=10, orphans=list, ask=ask):
            with leases.guard(lease) as guard:
                study.tell(lease.number, 0.5)
                leases.finish(lease, "complete", within=guard)
            taken += 1
        return taken


def test_a_held_trial_is_not_taken_over(acquire: Acquire, lease: TrialLease) -> None:
    other = acquire("b")
    assert other is not None
    assert other.number != lease.number


def test_an_expired_trial_is_continued_before_a_new_one(
    database: Database, leases: TrialLeases, lease: TrialLease
) -> None:
    leases.save_state(lease, "states/0", 40)
    run_out(database)
    taken = leases.acquire("b", budget=100, orphans=list, ask=refuse)
    assert taken is not None
    assert (taken.id, taken.number, taken.fence) == (lease.id, lease.number, lease.fence + 1)
    assert (taken.state_address, taken.state_step) == ("states/0", 40)
    first, second = leases.attempts(lease.number)
    assert (first.worker_id, first.outcome) == ("trainer", "lost")
    assert first.ended_at is not None
    assert (second.worker_id, second.outcome, second.ended_at) == ("b", None, None)


def test_leases_run_out_by_themselves(database: Database, study: int) -> None:
    leases = TrialLeases(database, study, seconds=0.05)
    lease = leases.acquire("a", budget=1, orphans=list, ask=lambda: (100, 0))
    assert lease is not None
    assert leases.rows()[0].worker_id == "a"
    threading.Event().wait(0.1)
    assert leases.rows()[0].worker_id is None
    taken = leases.acquire("b", budget=1, orphans=list, ask=refuse)
    assert taken is not None
    assert taken.fence == 2


def test_a_zombie_is_refused_everywhere(
    database: Database, leases: TrialLeases, queue: EvaluationQueue, lease: TrialLease
) -> None:
    run_out(database)
    assert leases.acquire("b", budget=1, orphans=list, ask=refuse) is not None
    before = leases.rows()
    put = {"step": 1, "examples": 8, "rung": None, "checkpoint": "c"}
    attempts: list[Callable[[], object]] = [
        lambda: leases.renew(lease),
        lambda: leases.save_state(lease, "zombie", 1),
        lambda: leases.release(lease),
        lambda: leases.finish(lease, "complete"),
        lambda: leases.guard(lease).__enter__(),
        lambda: queue.put(lease, **put),  # type: ignore[arg-type]
    ]
    for attempt in attempts:
        with pytest.raises(LeaseLost, match="attempt 1 of trial 0 is over"):
            attempt()
    assert leases.rows() == before
    assert queue.for_trial(0) == []


def test_a_lease_that_ran_out_is_good_until_somebody_takes_over(
    database: Database, leases: TrialLeases, lease: TrialLease
) -> None:
    run_out(database)
    leases.renew(lease)
    assert leases.acquire("b", budget=1, orphans=list, ask=refuse) is None


def test_a_released_trial_is_claimable_at_once_with_its_state(
    leases: TrialLeases, lease: TrialLease
) -> None:
    leases.save_state(lease, "states/0", 12)
    leases.release(lease, "stopped by hand")
    with pytest.raises(LeaseLost):
        leases.renew(lease)
    taken = leases.acquire("b", budget=1, orphans=list, ask=refuse)
    assert taken is not None
    assert (taken.fence, taken.state_address, taken.state_step) == (2, "states/0", 12)
    first = leases.attempts(0)[0]
    assert (first.outcome, first.message) == ("suspended", "stopped by hand")


def test_a_finished_trial_is_final(leases: TrialLeases, lease: TrialLease) -> None:
    leases.finish(lease, "diverged", "loss is NaN at step 3")
    (row,) = leases.rows()
    assert (row.state, row.outcome, row.message) == (
        "finished",
        "diverged",
        "loss is NaN at step 3",
    )
    assert row.finished_at is not None
    assert row.worker_id is None
    assert leases.attempts(0)[0].outcome == "finished"
    with pytest.raises(LeaseLost):
        leases.finish(lease, "complete")
    assert leases.acquire("b", budget=1, orphans=list, ask=refuse) is None


def test_nobody_takes_a_guarded_trial(
    database: Database, leases: TrialLeases, queue: EvaluationQueue, lease: TrialLease
) -> None:
    run_out(database)
    with leases.guard(lease) as guard:
        assert leases.acquire("b", budget=1, orphans=list, ask=refuse) is None
        queue.put(lease, step=1, examples=8, rung=None, checkpoint="c")
        leases.finish(lease, "complete", within=guard)
    assert leases.rows()[0].outcome == "complete"


def test_what_a_failing_guard_wrote_is_undone(leases: TrialLeases, lease: TrialLease) -> None:
    def write_and_fail() -> None:
        with leases.guard(lease) as guard:
            leases.finish(lease, "complete", within=guard)
            raise RuntimeError("Optuna's write failed")

    with pytest.raises(RuntimeError, match="Optuna's write failed"):
        write_and_fail()
    assert leases.unfinished() == 1


def test_orphans_are_adopted_before_asking(leases: TrialLeases, lease: TrialLease) -> None:
    running = [(105, 5), (100, 0), (103, 3)]  # 100 is the held trial
    adopted = [leases.acquire("b", budget=3, orphans=lambda: running, ask=refuse) for _ in range(3)]
    assert [taken and taken.trial_id for taken in adopted] == [103, 105, None]


def test_an_ask_that_raises_leaves_nothing_behind(leases: TrialLeases) -> None:
    def ask() -> tuple[int, int]:
        raise RuntimeError("no more parameters")

    with pytest.raises(RuntimeError, match="no more parameters"):
        leases.acquire("a", budget=1, orphans=list, ask=ask)
    assert leases.count() == 0
    assert leases.acquire("a", budget=1, orphans=list, ask=lambda: (1, 0)) is not None


def test_a_stop_request_ends_leasing(
    database: Database, study: int, leases: TrialLeases, lease: TrialLease
) -> None:
    Studies(database).request_stop(study)
    leases.release(lease)
    assert leases.acquire("b", budget=9, orphans=list, ask=refuse) is None
    Studies(database).resume(study)
    assert leases.acquire("b", budget=9, orphans=list, ask=refuse) is not None


def test_a_deleted_study_is_told(database: Database, study: int, leases: TrialLeases) -> None:
    Studies(database).delete(study)
    with pytest.raises(StudyError, match="no study with id"):
        leases.acquire("a", budget=1, orphans=list, ask=refuse)


def test_a_dead_workers_leases_are_free_at_once(
    leases: TrialLeases, queue: EvaluationQueue, acquire: Acquire
) -> None:
    for _ in range(2):
        assert acquire("dead") is not None
    other = acquire("alive")
    assert other is not None
    queue.put(other, step=1, examples=8, rung=None, checkpoint="c")
    first_claim = queue.claim("dead")
    assert first_claim is not None
    assert leases.release_worker("dead") == 3
    assert leases.release_worker("dead") == 0
    assert [row.worker_id for row in leases.rows()] == [None, None, "alive"]
    second_claim = queue.claim("evaluator")
    assert second_claim is not None
    assert second_claim.fence == first_claim.fence + 1
    taken = acquire("b")
    assert taken is not None
    assert (taken.number, taken.fence) == (0, 2)
