"""Requests and scores in words."""

from __future__ import annotations

from storage.records import EvaluationRequest
from workers.evaluation.scores import Answered, Scores
from workers.evaluation.tasks.task import NOT_GRADABLE


def describe(request: EvaluationRequest) -> str:
    """The request in words."""
    on = " on the test set" if request.test else ""
    if request.trial_id is None:
        return f"the base model{on}"
    return f"trial {request.number}, batch {request.step}{on}"


def _answered(answered: Answered) -> list[str]:
    share = answered.share
    of = f"{share.correct} of {share.total}"
    if answered.answers_total != share.total:
        of = f"{answered.answers_total} answers to {share.total} items"
    parts = [f"accuracy {share.accuracy:.3f} ({of})"]
    if lost := share.categories.get(NOT_GRADABLE):
        parts.append(f"{lost} answers not gradable, which count as wrong")
    return parts


def summary(scores: Scores) -> str:
    """The scores in one line."""
    if scores.reason is not None:
        return scores.reason
    parts = [f"loss {scores.loss:.4f}"]
    if scores.answered is not None:
        parts += _answered(scores.answered)
    times = scores.timings
    parts.append(f"{times.total:.2f} s, {times.overhead:.2f} s of it overhead")
    return ", ".join(parts)
