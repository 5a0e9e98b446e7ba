"""Which evaluation a person means: `3`, `best`, `base`, or `3@2000` for a step."""

from __future__ import annotations

import re

from hpo.results.comparison import Side
from hpo.results.snapshot import StudyView
from hpo.search.course import Point, best_point
from hpo.spec.errors import InputError, StudyError
from storage.records import EvaluationRecord

CHOICE = re.compile(r"(?P<which>base|best|\d+)(?:@(?P<step>\d+))?")
ALLOWED = "a trial's number, best or base, and for another evaluation than the best one @STEP"


def choose(view: StudyView, given: str, *, step: int | None = None, test: bool = False) -> Side:
    """The evaluation that is meant by `given`, or the one at `step` there.

    Without a step it is the trial's best one. Raises InputError for what cannot
    be meant, and StudyError for what was not scored.
    """
    found = CHOICE.fullmatch(given)
    if found is None:
        raise InputError(f"given {given!r}; allowed: {ALLOWED}")
    if found["step"] is not None:
        step = int(found["step"])
    if found["which"] == "base":
        return _base(view, step, test)
    number = trial_number(view, found["which"])
    return _trial(view, number, step, test)


def trial_number(view: StudyView, given: str) -> int:
    """A trial's number, given as it is or as `best`. Raises StudyError or InputError."""
    trials = view.search.study.get_trials(deepcopy=False)
    if given == "best":
        best = view.search.best_trial()
        if best is None:
            raise StudyError("given best, but no trial is complete yet; allowed: a number, or base")
        return best.number
    if not given.isdecimal():
        raise InputError(f"given {given!r}; allowed: a trial's number, best or base")
    if int(given) >= len(trials):
        allowed = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise StudyError(f"given trial {given}, which is not there; allowed: {allowed}")
    return int(given)


def best_record(view: StudyView, number: int) -> EvaluationRecord | None:
    """The trial's best answered evaluation so far; None without one."""
    done = {record.step: record for record in answered(view, number)}
    trial = view.search.study.get_trials(deepcopy=False)[number]
    step = trial.user_attrs.get("best_step")
    if step is None:
        points = [
            Point(record.step, record.examples, record.rung, record.checkpoint, record.result or {})
            for record in done.values()
        ]
        best = best_point(points, view.spec)
        step = best.step if best is not None else None
    return done.get(step) if step is not None else None


def answered(view: StudyView, number: int) -> list[EvaluationRecord]:
    """The trial's evaluations that have a result, by step."""
    return [record for record in view.queue.for_trial(number) if record.state == "done"]


def _base(view: StudyView, step: int | None, test: bool) -> Side:
    if step:
        raise InputError(f"given step {step} of the base model; allowed: none, it is not trained")
    record = view.final.base() if test else view.queue.base()
    if record is None or record.state != "done":
        raise StudyError(f"the base model has no scores{_where(test)}: {_why(record)}")
    return Side("base model", None, record)


def _trial(view: StudyView, number: int, step: int | None, test: bool) -> Side:
    record = best_record(view, number) if step is None else _at(view, number, step)
    if record is None:
        raise StudyError(
            f"trial {number} has no evaluation with a finite {view.spec.objective.metric}"
        )
    if test:
        record = _tested(view, number, record.step)
    return Side(f"trial {number}, batch {record.step}", number, record)


def _at(view: StudyView, number: int, step: int) -> EvaluationRecord:
    records = answered(view, number)
    for record in records:
        if record.step == step:
            return record
    allowed = ", ".join(str(record.step) for record in records) or "none yet"
    raise StudyError(f"trial {number} was not evaluated at batch {step}; allowed: {allowed}")


def _tested(view: StudyView, number: int, step: int) -> EvaluationRecord:
    record = view.queue.trial_test(number, step)
    if record is None or record.state != "done":
        raise StudyError(
            f"trial {number}, batch {step} has no scores{_where(True)}: {_why(record)}; only the "
            "base model and the best trial are scored there, when all trials are over"
        )
    return record


def _where(test: bool) -> str:
    return " on the test set" if test else ""


def _why(record: EvaluationRecord | None) -> str:
    if record is None:
        return "they were not asked for"
    return f"that failed: {record.error}" if record.state == "failed" else "they are still to come"
