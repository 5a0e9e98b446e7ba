"""What the evaluations of one trial decide, strictly in their order.

The decision is a function of the answered evaluations by step, not of the
time at which they were answered: results are looked at only up to the first
that is missing, and whatever lies beyond the first decision is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hpo.search.asha import Verdict
from hpo.search.plateau import plateau
from hpo.spec.study import StudySpec


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    DOES_NOT_FIT = "does_not_fit"
    INVALID = "invalid"
    EVALUATION_FAILED = "evaluation_failed"
    BUG = "bug"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Point:
    """One answered evaluation."""

    step: int
    examples: int
    rung: int | None
    checkpoint: str | None
    metrics: Mapping[str, Any]
    """`loss`, `accuracy` and their counts; JSON has words for what is not finite."""
    error: str | None = None
    """Why the evaluation failed for good; there are no metrics then."""

    def value(self, metric: str) -> float | None:
        """A metric; None where it was not finite."""
        given = self.metrics.get(metric)
        value = math.nan if given is None else float(given)
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Ending:
    """Why and where a trial ends, and its best evaluation until then."""

    outcome: Outcome
    reason: str
    best: Point | None = None


Judge = Callable[[int, float], Verdict]
"""Verdict at a rung (examples) on a value."""


def decide(
    points: Sequence[Point], spec: StudySpec, *, last_step: int, judge: Judge
) -> Ending | None:
    """The end of a trial, or None while it should go on.

    `points` are the answered evaluations without a gap, by step; `last_step`
    is the trial's last optimizer step. `judge` is asked once per rung, in
    order, and never beyond the trial's end.
    """
    for index, point in enumerate(points):
        seen = points[: index + 1]
        ending = _broken(point) or _pruned(point, spec, last_step, judge)
        ending = ending or _plateaued(seen, spec)
        if ending is None and point.step >= last_step:
            ending = Ending(Outcome.COMPLETE, f"trained all {last_step} batches")
        if ending is not None:
            return Ending(ending.outcome, ending.reason, best_point(seen, spec))
    return None


def best_point(points: Sequence[Point], spec: StudySpec) -> Point | None:
    """The best evaluation on the objective's metric, the earliest on a tie."""
    sign = -1.0 if spec.objective.direction == "maximize" else 1.0
    metric = spec.objective.metric
    measured = [(sign * v, p) for p in points if (v := p.value(metric)) is not None]
    return min(measured, key=lambda pair: (pair[0], pair[1].step))[1] if measured else None


def _broken(point: Point) -> Ending | None:
    if point.error is not None:
        return Ending(Outcome.EVALUATION_FAILED, f"evaluation at batch {point.step}: {point.error}")
    if point.value("loss") is None:
        reason = f"the evaluation loss at batch {point.step} is not finite"
        # Weights that are not finite themselves are named.
        if "reason" in point.metrics:
            reason = f"evaluation at batch {point.step}: {point.metrics['reason']}"
        return Ending(Outcome.DIVERGED, reason)
    return None


def _pruned(point: Point, spec: StudySpec, last_step: int, judge: Judge) -> Ending | None:
    value = point.value(spec.objective.metric)
    if point.rung is None or value is None:
        return None
    verdict = judge(point.rung, value)
    # A trial that has spent all its training loses nothing by being complete.
    if verdict.keep or point.step >= last_step:
        return None
    place = "worse than the median"
    if verdict.rank is not None:
        place = f"rank {verdict.rank} of {verdict.competitors}"
    return Ending(
        Outcome.PRUNED,
        f"{spec.objective.metric} {value:.4g} at {point.rung} examples: {place}",
    )


def _scheduled(point: Point, spec: StudySpec) -> bool:
    """Whether the trial's own schedule asked for the evaluation, not only a rung.

    Patience counts these alone: rungs lie closer together the larger the
    batch, and would end such trials sooner.
    """
    batch = point.examples // point.step
    return spec.evaluation.every.due(point.step, point.examples - batch, point.examples)


def _plateaued(points: Sequence[Point], spec: StudySpec) -> Ending | None:
    rule = spec.evaluation.early_stopping
    if rule is None:
        return None
    scheduled = [p for p in points if _scheduled(p, spec)]
    if not scheduled or scheduled[-1] is not points[-1]:
        return None
    values = [value for p in scheduled if (value := p.value(rule.metric)) is not None]
    if plateau(values, rule) != len(values) - 1:
        return None
    amount = f" by {rule.min_delta:g}" if rule.min_delta else ""
    return Ending(
        Outcome.COMPLETE,
        f"{rule.metric} did not improve{amount} in {rule.patience} evaluations",
    )
