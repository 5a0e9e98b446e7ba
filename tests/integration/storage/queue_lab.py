"""Requests of several trials, and the order in which they are handed out."""

from __future__ import annotations

from collections.abc import Callable

from storage.order import Order
from storage.queue import EvaluationQueue
from storage.trials import TrialLease

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
