"""The order of the queue: lowest rung first, fair between trials, whoever else claims."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from queue_lab import RESULT, Acquire, handed_out, no_report, put, trials

from storage.database import Database
from storage.errors import LeaseLost
from storage.order import PATIENCE, Order
from storage.queue import EvaluationQueue
from storage.records import EvaluationRequest
from storage.trials import TrialLease, TrialLeases

pytestmark = pytest.mark.postgres


def test_the_lowest_rung_goes_first_whoever_asked_first(
    queue: EvaluationQueue, acquire: Acquire
) -> None:
    a, b, c = trials(acquire, 3)
    put(queue, a, 900, rung=810)
    put(queue, b, 300, rung=270)
    put(queue, a, 1200)
    put(queue, c, 290)
    queue.put_base()
    assert handed_out(queue) == [(None, 0), (1, 300), (2, 290), (0, 900), (0, 1200)]


def test_level_trials_take_turns(queue: EvaluationQueue, acquire: Acquire) -> None:
    a, b, c = trials(acquire, 3)
    put(queue, b, 100)
    put(queue, a, 100)
    assert handed_out(queue) == [(1, 100), (0, 100)]
    for lease in (a, b, c):
        put(queue, lease, 200)
    assert handed_out(queue) == [(2, 200), (1, 200), (0, 200)]


def test_a_newer_request_overtakes_within_its_trial_only(
    queue: EvaluationQueue, acquire: Acquire
) -> None:
    a, b = trials(acquire, 2)
    for examples in (100, 200, 300):
        put(queue, a, examples)
    put(queue, b, 150)
    put(queue, b, 250)
    assert handed_out(queue, "newest") == [(0, 300), (0, 200), (0, 100), (1, 250), (1, 150)]


def test_the_test_set_comes_last(
    queue: EvaluationQueue, leases: TrialLeases, acquire: Acquire
) -> None:
    a, b = trials(acquire, 2)
    put(queue, a, 100)
    request = queue.claim("evaluator")
    assert request is not None
    queue.complete(request, RESULT, no_report)
    leases.finish(a, "complete")
    queue.put_base_test()
    queue.put_trial_test(queue.for_trial(0)[0])
    put(queue, b, 900)
    taken = [queue.claim("evaluator") for _ in range(4)]
    assert [r and (r.number, r.test) for r in taken] == [(1, False), (None, True), (0, True), None]


def test_requests_of_an_ended_trial_are_cancelled_not_handed_out(
    database: Database, queue: EvaluationQueue, leases: TrialLeases, acquire: Acquire
) -> None:
    a, b, c = trials(acquire, 3)
    put(queue, a, 100)
    put(queue, a, 200)
    assert queue.claim("vanished") is not None
    put(queue, b, 300)
    put(queue, c, 400)
    leases.finish(a, "pruned")
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE hpo.evaluation SET lease_expires_at = now()"))
        connection.execute(sa.text("DELETE FROM hpo.trial WHERE number = 2"))
    assert queue.counts() == {"claimed": 1, "open": 3}
    assert handed_out(queue) == [(1, 300)]
    assert queue.counts() == {"cancelled": 3, "claimed": 1}
    assert queue.pinned() == {"trial-1/300"}
    assert all(record.finished_at is not None for record in queue.for_trial(0))


def test_a_zombies_result_for_an_ended_trial_is_refused(
    database: Database, queue: EvaluationQueue, leases: TrialLeases, lease: TrialLease
) -> None:
    put(queue, lease, 100)
    request = queue.claim("zombie")
    assert request is not None
    leases.finish(lease, "pruned")
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE hpo.evaluation SET lease_expires_at = now()"))
    assert queue.claim("evaluator") is None
    with pytest.raises(LeaseLost):
        queue.complete(request, RESULT, no_report)


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_claimer_that_is_in_the_middle_holds_nobody_up(
    database: Database, queue: EvaluationQueue, lease: TrialLease, order: Order
) -> None:
    put(queue, lease, 100)
    put(queue, lease, 200)
    first, second = (100, 200) if order == "oldest" else (200, 100)
    with database.engine.begin() as connection:
        # What a claim holds before it is committed.
        lock = sa.text("SELECT FROM hpo.evaluation WHERE examples = :examples FOR UPDATE")
        connection.execute(lock, {"examples": first})
        assert handed_out(queue, order) == [(0, second)]
    assert handed_out(queue, order) == [(0, first)]


def test_what_a_worker_gives_back_keeps_its_place(queue: EvaluationQueue, acquire: Acquire) -> None:
    a, b = trials(acquire, 2)
    put(queue, a, 100)
    put(queue, b, 100)
    request = queue.claim("evaluator")
    assert request is not None
    queue.release(request)
    assert queue.for_trial(0)[0].claimed_at is None
    assert handed_out(queue) == [(0, 100), (1, 100)]


def test_more_is_one_request_each_of_other_trials(
    queue: EvaluationQueue, leases: TrialLeases, acquire: Acquire
) -> None:
    a, b, c, d, ended = trials(acquire, 5)
    put(queue, ended, 100)
    for lease in (b, c, a, d):
        put(queue, lease, 100 + 100 * lease.number)
        put(queue, lease, 1000 + 100 * lease.number)
    queue.put_base_test()
    leases.finish(ended, "pruned")
    first = queue.claim("evaluator")
    assert first is not None
    assert first.number == 0
    queue.put_base()
    assert queue.claim_more("evaluator", first, 0) == []
    more = queue.claim_more("evaluator", first, 2)
    assert [(r.number, r.examples, r.attempts) for r in more] == [(1, 200, 1), (2, 300, 1)]
    newest = queue.claim_more("evaluator", more[0], 9, order="newest")
    assert [(r.number, r.examples) for r in newest] == [(3, 1300), (0, 1000), (2, 1200)]
    assert queue.for_trial(4)[0].state == "cancelled"
    for request in (first, *more, *newest):
        queue.complete(request, RESULT, no_report)
    assert handed_out(queue) == [(None, 0), (3, 400), (1, 1100), (None, 0)]


@pytest.mark.parametrize("test", [False, True])
def test_nothing_goes_together_with_the_base_model_or_the_test_set(
    queue: EvaluationQueue, lease: TrialLease, test: bool
) -> None:
    request = _only_request(queue, lease, test)
    put(queue, lease, 100)
    assert queue.claim_more("evaluator", request, 3) == []


def _only_request(queue: EvaluationQueue, lease: TrialLease, test: bool) -> EvaluationRequest:
    if test:
        put(queue, lease, 900)
        scored = queue.claim("evaluator")
        assert scored is not None
        queue.complete(scored, RESULT, no_report)
        queue.put_trial_test(queue.for_trial(0)[0])
    else:
        queue.put_base()
    request = queue.claim("evaluator")
    assert request is not None
    return request


def test_a_dense_trial_does_not_starve_another(queue: EvaluationQueue, acquire: Acquire) -> None:
    dense, other = trials(acquire, 2)
    put(queue, other, 100_000)
    examples = _served_after(queue, other, lambda turn: put(queue, dense, 100 * (turn + 1)))
    assert PATIENCE * 2 < examples <= 5 * 2


def test_trials_that_begin_anew_do_not_starve_one_that_is_far(
    queue: EvaluationQueue, leases: TrialLeases, acquire: Acquire
) -> None:
    far = trials(acquire, 2)
    for lease in far:
        put(queue, lease, 100_000 + lease.number)
    fresh = trials(acquire, 2)

    def begin_anew(turn: int) -> None:
        leases.finish(fresh[turn % 2], "pruned")
        fresh[turn % 2] = trials(acquire, 1)[0]
        put(queue, fresh[turn % 2], 100)

    for lease in fresh:
        put(queue, lease, 100)
    assert _served_after(queue, far[0], begin_anew) <= 5 * 4
    assert _served_after(queue, far[1], begin_anew) <= 5 * 4


def _served_after(
    queue: EvaluationQueue, lease: TrialLease, before_each: Callable[[int], None]
) -> int:
    """How many others are served before a request of that trial is."""
    for turn in range(100):
        before_each(turn)
        request = queue.claim("evaluator")
        assert request is not None
        queue.complete(request, RESULT, no_report)
        if request.number == lease.number:
            return turn
    raise AssertionError("starved")
