"""Everything that is known about one trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hpo.results.chosen import choose, trial_number
from hpo.results.comparison import Side
from hpo.results.snapshot import StudyView, TrialView, as_json
from hpo.search.asha import Verdict
from hpo.spec.errors import StudyError
from storage.attempts import AttemptRow
from storage.records import EvaluationRecord

BASE = "base"


@dataclass(frozen=True)
class TrialDetail:
    """A trial, or the base model, with its evaluations."""

    study: str
    trial: TrialView | None
    """None for the base model."""
    attempts: list[AttemptRow]
    evaluations: list[EvaluationRecord]
    """All that were asked for, by step; those on the test set are not among them."""
    shown: Side | None
    """The evaluation that is looked at; None where there is none with a finite objective."""

    def verdict(self, record: EvaluationRecord) -> Verdict | None:
        """What was decided at the evaluation's rung."""
        verdicts = self.trial.rungs if self.trial is not None else ()
        return next((verdict for verdict in verdicts if verdict.rung == record.rung), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "study": self.study,
            "trial": as_json(asdict(self.trial)) if self.trial is not None else None,
            "attempts": [as_json(asdict(attempt)) for attempt in self.attempts],
            "evaluations": [self._evaluation(record) for record in self.evaluations],
            "shown": self._evaluation(self.shown.record) if self.shown is not None else None,
        }

    def _evaluation(self, record: EvaluationRecord) -> dict[str, Any]:
        names = ("step", "examples", "rung", "test", "state", "error", "result")
        verdict = self.verdict(record)
        content = {name: getattr(record, name) for name in names}
        return content | {"verdict": asdict(verdict) if verdict is not None else None}


def read_detail(view: StudyView, given: str, *, step: int | None, test: bool) -> TrialDetail:
    """The trial that is meant by a number, `best` or `base`.

    Shown is its best evaluation, or the one at a step. Raises InputError and
    StudyError for what is not there.
    """
    if given == BASE:
        record = view.queue.base()
        shown = choose(view, given, step=step, test=test)
        return TrialDetail(view.record.name, None, [], [record] if record else [], shown)
    number = trial_number(view, given)
    trial = next(trial for trial in view.read().trials if trial.number == number)
    return TrialDetail(
        view.record.name,
        trial,
        view.trials.attempts(number),
        view.queue.for_trial(number),
        _shown(view, str(number), step, test),
    )


def _shown(view: StudyView, given: str, step: int | None, test: bool) -> Side | None:
    """What was asked for must be there; a trial without any evaluation can be looked at."""
    if step is not None or test:
        return choose(view, given, step=step, test=test)
    try:
        return choose(view, given)
    except StudyError:
        return None


def seconds(result: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of an evaluation by phase; an older result may lack some."""
    timings = result.get("timings") or {}
    names = ("total", "load", "generate", "grade", "switch", "loss")
    return {name: timings[name] for name in names if name in timings}
