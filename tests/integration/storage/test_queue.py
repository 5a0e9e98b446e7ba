"""The evaluation queue: each request exactly once, whoever dies, is late or says it twice."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from storage.database import Database
from storage.errors import LeaseLost
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord, EvaluationRequest
from storage.studies import Studies
from storage.trials import TrialLease, TrialLeases

pytestmark = pytest.mark.postgres

RESULT = {"loss": 1.5}


def put(
    queue: EvaluationQueue, lease: TrialLease, step: int, checkpoint: str | None = None
) -> EvaluationRecord:
    address = checkpoint or f"trial-{lease.number}/step-{step}"
    return queue.put(lease, step=step, examples=8 * step, rung=None, checkpoint=address)


def claim(queue: EvaluationQueue, worker: str = "evaluator") -> EvaluationRequest:
    request = queue.claim(worker)
    assert request is not None
    return request


def run_out(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE hpo.evaluation SET lease_expires_at = now() - interval '1 second'")
        )


def reported() -> bool:
    return True


def unexpected() -> bool:
    raise AssertionError("reported what should have been refused")


def only(queue: EvaluationQueue, number: int = 0) -> EvaluationRecord:
    (record,) = queue.for_trial(number)
    return record


def test_the_way_of_a_request(queue: EvaluationQueue, lease: TrialLease) -> None:
    record = queue.put(lease, step=5, examples=40, rung=32, checkpoint="t0/s5")
    assert (record.state, record.attempts, record.claimed_at) == ("open", 0, None)
    assert queue.pending(0) == 1
    request = claim(queue)
    assert (request.trial_id, request.number, request.step) == (lease.trial_id, 0, 5)
    assert (request.examples, request.rung, request.checkpoint) == (40, 32, "t0/s5")
    assert (request.fence, request.attempts) == (1, 1)
    assert queue.claim("another") is None
    queue.renew(request)
    queue.complete(request, RESULT, reported)
    done = only(queue)
    assert (done.state, done.result, done.reported, done.error) == ("done", RESULT, True, None)
    assert done.finished_at is not None
    assert done.claimed_at is not None
    assert done.created_at <= done.claimed_at <= done.finished_at
    assert (queue.pending(0), queue.pinned(), queue.counts()) == (0, set(), {"done": 1})


def test_the_base_goes_first_then_the_oldest(queue: EvaluationQueue, lease: TrialLease) -> None:
    for step in (2, 1, 3):
        put(queue, lease, step)
    queue.put_base()
    queue.put_base()
    taken = [claim(queue) for _ in range(4)]
    assert [request.number for request in taken] == [None, 0, 0, 0]
    assert [request.step for request in taken] == [0, 1, 2, 3]
    assert (taken[0].trial_id, taken[0].checkpoint, taken[0].examples) == (None, None, 0)
    assert queue.claim("evaluator") is None
    queue.complete(taken[0], RESULT, lambda: False)
    base = queue.base()
    assert base is not None
    assert (base.state, base.result, base.reported) == ("done", RESULT, False)
    assert [record.step for record in queue.for_trial(0)] == [1, 2, 3]


def test_a_failed_base_is_tried_again_on_demand(queue: EvaluationQueue) -> None:
    assert queue.base() is None
    queue.put_base()
    queue.fail(claim(queue), "no memory", retry=False)
    assert queue.claim("evaluator") is None
    queue.put_base()
    assert claim(queue).attempts == 1


def test_each_request_is_claimed_exactly_once_by_threads(
    queue: EvaluationQueue, lease: TrialLease
) -> None:
    for step in range(200):
        put(queue, lease, step)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda worker: _claim_all(queue, str(worker)), range(8)))
    assert Counter(step for steps in taken for step in steps) == Counter(range(200))


@pytest.mark.slow
def test_each_request_is_claimed_exactly_once_by_processes(
    queue: EvaluationQueue, lease: TrialLease, database: Database
) -> None:
    for step in range(200):
        put(queue, lease, step)
    jobs = [(database.url, lease.study_id, str(worker)) for worker in range(4)]
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = list(pool.map(_claim_all_elsewhere, jobs))
    assert Counter(step for steps in taken for step in steps) == Counter(range(200))
    assert {record.attempts for record in queue.for_trial(0)} == {1}


def _claim_all(queue: EvaluationQueue, worker: str) -> list[int]:
    steps = []
    while (request := queue.claim(worker)) is not None:
        steps.append(request.step)
    return steps


def _claim_all_elsewhere(job: tuple[str, int, str]) -> list[int]:
    url, study_id, worker = job
    with Database.open(url) as database:
        return _claim_all(EvaluationQueue(database, study_id, seconds=30), worker)


def test_putting_a_step_again_changes_nothing(queue: EvaluationQueue, lease: TrialLease) -> None:
    first = put(queue, lease, 1)
    assert put(queue, lease, 1, "another") == first
    request = claim(queue)
    assert put(queue, lease, 1, "another").state == "claimed"
    queue.complete(request, RESULT, reported)
    done = put(queue, lease, 1, "another")
    assert (done.state, done.result, done.checkpoint) == ("done", RESULT, first.checkpoint)


def test_putting_a_failed_or_cancelled_step_opens_it_again(
    queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    queue.fail(claim(queue), "unreadable", retry=False)
    again = put(queue, lease, 1, "second")
    assert (again.state, again.checkpoint, again.attempts, again.error) == (
        "open",
        "second",
        0,
        None,
    )
    old = claim(queue)
    assert old.fence == 2
    queue.cancel(0, after_step=0)
    assert put(queue, lease, 1, "third").state == "open"
    new = claim(queue)
    with pytest.raises(LeaseLost):
        queue.complete(old, RESULT, unexpected)
    queue.complete(new, RESULT, reported)
    assert only(queue).checkpoint == "third"


def test_a_late_result_is_refused_once_somebody_took_over(
    database: Database, queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    zombie = claim(queue, "zombie")
    run_out(database)
    heir = claim(queue, "heir")
    assert (heir.id, heir.fence, heir.attempts) == (zombie.id, zombie.fence + 1, 2)
    with pytest.raises(LeaseLost, match="trial 0 at step 1"):
        queue.renew(zombie)
    with pytest.raises(LeaseLost):
        queue.complete(zombie, RESULT, unexpected)
    queue.fail(zombie, "too late", retry=False)
    queue.release(zombie)
    record = only(queue)
    assert (record.state, record.worker_id, record.error) == ("claimed", "heir", None)
    queue.complete(heir, {"loss": 2.0}, reported)
    with pytest.raises(LeaseLost):
        queue.complete(zombie, RESULT, unexpected)
    assert only(queue).result == {"loss": 2.0}


def test_a_late_result_is_taken_while_nobody_took_over(
    database: Database, queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    late = claim(queue)
    run_out(database)
    queue.renew(late)
    assert queue.claim("another") is None
    run_out(database)
    queue.complete(late, RESULT, reported)
    assert only(queue).state == "done"


def test_completing_twice_reports_once(queue: EvaluationQueue, lease: TrialLease) -> None:
    put(queue, lease, 1)
    request = claim(queue)
    queue.complete(request, RESULT, reported)
    queue.complete(request, {"loss": 9.0}, unexpected)
    assert only(queue).result == RESULT


def test_nothing_is_stored_when_the_report_raises(
    queue: EvaluationQueue, lease: TrialLease
) -> None:
    def report() -> bool:
        raise RuntimeError("the study is gone")

    put(queue, lease, 1)
    request = claim(queue)
    with pytest.raises(RuntimeError, match="the study is gone"):
        queue.complete(request, RESULT, report)
    assert (only(queue).state, only(queue).result) == ("claimed", None)
    queue.complete(request, RESULT, reported)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_must_be_json(queue: EvaluationQueue, lease: TrialLease, value: float) -> None:
    put(queue, lease, 1)
    request = claim(queue)
    with pytest.raises(sa.exc.StatementError, match="not JSON compliant"):
        queue.complete(request, {"loss": value}, reported)
    assert only(queue).state == "claimed"


def test_what_a_model_writes_can_be_stored(queue: EvaluationQueue, lease: TrialLease) -> None:
    put(queue, lease, 1)
    odd = {"by": {"a\0b": ["\udc80", "\ud83d\ude00"[:1], "\u0000", "grün 😀", "\\u0000"]}}
    queue.complete(claim(queue), odd, reported)
    stored = only(queue).result
    assert stored == {"by": {"a\ufffdb": ["?", "?", "\ufffd", "grün 😀", "\\u0000"]}}


def test_nobody_takes_a_request_while_its_report_runs(
    database: Database, queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    request = claim(queue)
    run_out(database)
    seen: list[EvaluationRequest | None] = []

    def report() -> bool:
        seen.append(queue.claim("another"))
        return True

    queue.complete(request, RESULT, report)
    assert seen == [None]


def test_failures_are_retried_until_the_attempts_are_used_up(
    queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    for attempt in (1, 2, 3):
        request = claim(queue)
        assert request.attempts == attempt
        queue.fail(request, f"failure {attempt}", retry=True)
    record = only(queue)
    assert (record.state, record.error) == ("failed", "failure 3")
    assert record.finished_at is not None
    assert queue.claim("evaluator") is None


def test_a_release_is_not_an_attempt(queue: EvaluationQueue, lease: TrialLease) -> None:
    put(queue, lease, 1)
    for _ in range(5):
        request = claim(queue)
        assert request.attempts == 1
        queue.release(request)
        with pytest.raises(LeaseLost):
            queue.renew(request)
    assert only(queue).worker_id is None


def test_a_request_that_kills_its_workers_fails_in_the_end(
    database: Database, queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    put(queue, lease, 2)
    for _ in range(3):
        assert claim(queue).step == 1
        run_out(database)
    assert claim(queue).step == 2
    first = queue.for_trial(0)[0]
    assert (first.state, first.error, first.attempts) == ("failed", "lost 3 evaluation workers", 3)


def test_cancelling_withdraws_what_lies_beyond(queue: EvaluationQueue, lease: TrialLease) -> None:
    for step in (1, 2, 3):
        put(queue, lease, step)
    first, second = claim(queue), claim(queue)
    assert queue.cancel(0, after_step=1) == 2
    assert [record.state for record in queue.for_trial(0)] == ["claimed", "cancelled", "cancelled"]
    queue.complete(first, RESULT, reported)
    with pytest.raises(LeaseLost):
        queue.renew(second)
    assert queue.cancel(0, after_step=0) == 0


def _complete(queue: EvaluationQueue, request: EvaluationRequest) -> None:
    with pytest.raises(LeaseLost):
        queue.complete(request, RESULT, unexpected)


def _fail(queue: EvaluationQueue, request: EvaluationRequest) -> None:
    queue.fail(request, "gone", retry=True)


@pytest.mark.parametrize("let_go", [_complete, _fail, EvaluationQueue.release])
def test_a_cancelled_claim_pins_until_it_lets_go(
    queue: EvaluationQueue,
    lease: TrialLease,
    let_go: Callable[[EvaluationQueue, EvaluationRequest], None],
) -> None:
    put(queue, lease, 1, "one")
    put(queue, lease, 2, "two")
    request = claim(queue)
    queue.cancel(0, after_step=0)
    assert queue.pinned() == {"one"}
    let_go(queue, request)
    assert queue.pinned() == set()
    assert {record.state for record in queue.for_trial(0)} == {"cancelled"}
    assert queue.claim("another") is None


def test_a_cancelled_claim_of_a_dead_worker_does_not_pin(
    database: Database, queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1, "one")
    claim(queue)
    queue.cancel(0, after_step=0)
    run_out(database)
    assert queue.pinned() == set()


def test_studies_do_not_see_each_other(database: Database, queue: EvaluationQueue) -> None:
    Studies(database).insert(id=8, name="other", spec={}, identity={}, checkpoints="/nowhere")
    other = EvaluationQueue(database, 8, seconds=30)
    leases = TrialLeases(database, 8, seconds=30)
    lease = leases.acquire("a", budget=1, orphans=list, ask=lambda: (200, 0))
    assert lease is not None
    put(other, lease, 1)
    other.put_base()
    queue.put_base()
    assert queue.for_trial(0) == []
    assert (queue.pinned(), queue.counts()) == (set(), {"open": 1})
    assert claim(queue).study_id == queue.recent(5)[0].study_id
    assert queue.claim("a") is None


def test_cancel_waits_for_a_result_that_is_being_stored(
    queue: EvaluationQueue, lease: TrialLease
) -> None:
    put(queue, lease, 1)
    request = claim(queue)
    with ThreadPoolExecutor(1) as pool:

        def report() -> bool:
            cancelled.append(pool.submit(queue.cancel, 0, after_step=0))
            assert not threading.Event().wait(0.1)
            assert not cancelled[0].done()
            return True

        cancelled: list = []  # type: ignore[type-arg]
        queue.complete(request, RESULT, report)
        assert cancelled[0].result() == 0
    assert only(queue).state == "done"
