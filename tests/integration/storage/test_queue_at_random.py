"""The queue under random use: the order of a model, and a crowd of workers that fail."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from queue_lab import RESULT, Acquire, no_report, put, trials

from storage.database import Database
from storage.errors import LeaseLost
from storage.order import PATIENCE, Order
from storage.queue import EvaluationQueue
from storage.records import EvaluationRequest
from storage.trials import TrialLeases

pytestmark = pytest.mark.postgres


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
