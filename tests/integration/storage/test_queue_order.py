"""The order of the queue: lowest rung first, fair between trials, whoever else claims."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from storage.database import Database
from storage.errors import LeaseLost
from storage.order import PATIENCE, Order
from storage.queue import EvaluationQueue
from storage.records import EvaluationRequest
from storage.trials import TrialLease, TrialLeases

pytestmark = pytest.mark.postgres

Acquire = Callable[[str], TrialLease | None]
RESULT = {"loss": 1.5}


def trials(acquire: Acquire, count: int) -> list[TrialLease]:
    taken = [acquire("trainer") for _ in range(count)]
    return [lease for lease in taken if lease is not None]


def put(queue: EvaluationQueue, lease: TrialLease, examples: int, rung: int | None = None) -> None:
    """A request; the step is a hundredth of the examples."""
    address = f"trial-{lease.number}/{examples}"
    queue.put(lease, step=examples // 100, examples=examples, rung=rung, checkpoint=address)


def handed_out(queue: EvaluationQueue, order: Order = "oldest") -> list[tuple[int | None, int]]:
    """All that waits, as trial and examples, in the order in which it is claimed."""
    found = []
    while (request := queue.claim("evaluator", order=order)) is not None:
        found.append((request.number, request.examples))
    return found


def no_report() -> bool:
    return False


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


@dataclass
class Asked:
    """What the model of the queue knows of a request; times are numbers of events."""

    number: int
    step: int
    level: int
    asked: int
    state: str = "open"
    claimed: int | None = None


@dataclass
class Model:
    """The order of the queue, once more, over lists."""

    order: Order
    requests: list[Asked] = field(default_factory=list)

    def next(self) -> Asked | None:
        waiting = [request for request in self.requests if request.state == "open"]
        claims = sorted((r.claimed for r in self.requests if r.claimed is not None), reverse=True)
        patience = PATIENCE * len({request.number for request in waiting})
        ends = claims[patience] if patience < len(claims) else -1
        return min(waiting, key=lambda request: self._turn(request, waiting, ends), default=None)

    def _turn(self, request: Asked, waiting: list[Asked], ends: int) -> tuple[float, ...]:
        trial = [other for other in waiting if other.number == request.number]
        served = max(
            (r.claimed for r in self.requests if r.number == request.number and r.claimed),
            default=0,
        )
        asked = min(other.asked for other in trial)
        since = max(asked, served)
        overdue = since if since < ends else float("inf")
        oldest = self.order == "oldest"
        level = request.level if oldest else min(other.level for other in trial)
        return overdue, level, served, asked, request.step if oldest else -request.step


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_single_claimer_is_served_in_the_order_of_the_model(
    queue: EvaluationQueue, acquire: Acquire, order: Order
) -> None:
    chance = random.Random(4)
    model, running = Model(order), trials(acquire, 6)
    reached = dict.fromkeys(range(100), 0)
    passed_over: Counter[int] = Counter()
    for event in range(1, 301):
        if chance.random() < 0.55:
            lease = chance.choice(running)
            # The first trials are scored densely, the last at far rungs.
            reached[lease.number] += 100 * chance.randint(1, 1 + 4 * lease.number)
            examples = reached[lease.number]
            rung = examples - chance.choice((0, 50)) if chance.random() < 0.5 else None
            put(queue, lease, examples, rung)
            model.requests.append(
                Asked(lease.number, examples // 100, rung or examples, asked=event)
            )
            continue
        wanted, given = model.next(), queue.claim("evaluator", order=order)
        assert (given and (given.number, given.step)) == (wanted and (wanted.number, wanted.step))
        if wanted is None or given is None:
            continue
        if chance.random() < 0.2:
            queue.release(given)
            continue
        wanted.state, wanted.claimed = "done", event
        queue.complete(given, RESULT, no_report)
        _count(passed_over, wanted.number, model.requests)
        assert max(passed_over.values(), default=0) <= 5 * len(running)


def _count(passed_over: Counter[int], served: int, requests: Iterable[Asked]) -> None:
    """How often each waiting trial was passed over since it was served or began to wait."""
    waiting = {request.number for request in requests if request.state == "open"}
    for number in set(passed_over) - waiting | {served}:
        del passed_over[number]
    passed_over.update(waiting - {served})


@dataclass
class Crowd:
    """Workers that claim together; some die, some hand back, some fail."""

    database: Database
    queue: EvaluationQueue
    reports: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def work(self, worker: int) -> None:
        chance = random.Random(worker)
        order: Order = "newest" if worker % 3 == 0 else "oldest"
        while not (self.over.is_set() and self._all_answered()):
            request = self.queue.claim(f"worker-{worker}", order=order)
            if request is None:
                self.over.wait(0.01)
                continue
            together = [request]
            if worker % 2:
                together += self.queue.claim_more(f"worker-{worker}", request, 2, order=order)
            assert len({one.number for one in together}) == len(together)
            for one in together:
                self._answer(one, chance)

    def _answer(self, request: EvaluationRequest, chance: random.Random) -> None:
        luck = chance.random()
        if luck < 0.1:
            self.queue.release(request)
        elif luck < 0.15:
            self._die(request)
        elif luck < 0.2 and request.attempts < 3:
            self.queue.fail(request, "bad luck", retry=True)
        else:
            try:
                self.queue.complete(request, RESULT, lambda: self._report(request), b"answers")
            except LeaseLost:
                return

    def _report(self, request: EvaluationRequest) -> bool:
        with self.lock:
            self.reports[request.id] += 1
        return True

    def _die(self, request: EvaluationRequest) -> None:
        expire = sa.text("UPDATE hpo.evaluation SET lease_expires_at = now() WHERE id = :id")
        with self.database.engine.begin() as connection:
            connection.execute(expire, {"id": request.id})

    def _all_answered(self) -> bool:
        counts = self.queue.counts()
        return not (counts.get("open") or counts.get("claimed"))


def test_a_crowd_of_workers_answers_each_request_once(
    database: Database, study: int, leases: TrialLeases, acquire: Acquire
) -> None:
    queue = EvaluationQueue(database, study, seconds=30, max_attempts=100)
    crowd, running = Crowd(database, queue), trials(acquire, 8)
    queue.put_base()
    with ThreadPoolExecutor(7) as pool:
        working = [pool.submit(crowd.work, worker) for worker in range(6)]
        for turn in range(120):
            put(queue, running[turn % 8], 100 * (1 + turn // 8))
        for lease in running[:2]:
            leases.finish(lease, "pruned")
        queue.cancel(running[2].number, after_step=10)
        crowd.over.set()
        for worker in working:
            worker.result()
    ended = {0, 1}
    for number in range(8):
        records = queue.for_trial(number)
        assert len(records) == 15
        for record in records:
            may_be_cancelled = number in ended or (number == 2 and record.step > 10)
            assert record.state == "done" or (may_be_cancelled and record.state == "cancelled")
            assert crowd.reports[record.id] == (record.state == "done")
    done = queue.counts()["done"]
    assert crowd.reports.total() == done
    with database.engine.connect() as connection:
        kept = sa.text("SELECT count(*) FROM hpo.evaluation_answers")
        assert connection.scalar(kept) == done
