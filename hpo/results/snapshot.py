"""A study as people see it: trials, verdicts, workers, the best so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.results.comparison import Difference, against_base
from hpo.search.asha import Verdict, verdicts
from hpo.search.final import FinalTest
from hpo.search.register import find
from hpo.search.study import StudySearch
from hpo.spec.study import StudySpec
from storage.answers import AnswerStore
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord
from storage.studies import StudyRecord
from storage.trials import TrialLeases, TrialRow
from storage.workers import Workers

LEASE_SECONDS = 60.0
OF_ITEMS = {"outcomes", "answers"}
"""What a result says of single items."""


@dataclass(frozen=True)
class TrialView:
    """One trial."""

    number: int
    state: str
    """Optuna's: RUNNING, COMPLETE, PRUNED or FAIL."""
    parameters: dict[str, Any]
    value: float | None
    """The objective at the best checkpoint; None where none was evaluated or the trial runs."""
    loss: float | None
    accuracy: float | None
    best_step: int | None
    best_examples: int | None
    step: int
    """The last evaluated optimizer step."""
    examples: int
    rungs: list[Verdict]
    outcome: str | None
    reason: str | None
    attempts: int
    held: bool
    """Whether a worker is at it now."""
    started: datetime | None
    finished: datetime | None
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """What was noticed of its health: each with `name`, `step` and `message`."""
    accuracy_low: float | None = None
    """Lower end of the accuracy's 95 % interval."""
    accuracy_high: float | None = None
    categories: dict[str, int] | None = None
    """Answers by category; None without a generation set."""

    @property
    def seconds(self) -> float | None:
        """Wall-clock time from ask to tell."""
        if self.started is None or self.finished is None:
            return None
        return (self.finished - self.started).total_seconds()


@dataclass(frozen=True)
class WorkerView:
    """One worker process that is there now."""

    kind: str
    device: str
    host: str
    pid: int
    phase: str


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    name: str
    state: str
    """running, idle (no worker is there), stopped or finished."""
    metric: str
    direction: str
    budget: int
    trials: list[TrialView]
    workers: list[WorkerView]
    evaluations: dict[str, int]
    base: dict[str, Any] | None
    """The base model's scores, without what belongs to single items."""
    best: int | None
    """Number of the best trial."""
    base_test: dict[str, Any] | None = None
    """The base model's scores on the test set, once they are there."""
    best_test: dict[str, Any] | None = None
    """The best trial's."""
    against_base: Difference = None
    """How much better the best trial is than the base model."""
    against_base_test: Difference = None
    """The same on the test set."""

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        found = Counter(trial.state for trial in self.trials)
        return {s: found.get(s, 0) for s in ("RUNNING", "COMPLETE", "PRUNED", "FAIL")}

    def best_trial(self) -> TrialView | None:
        """The best trial."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    @property
    def ended(self) -> int:
        """Trials that are over."""
        return sum(trial.state != "RUNNING" for trial in self.trials)

    def as_dict(self) -> dict[str, Any]:
        """The snapshot as JSON."""
        content = asdict(self)
        content["trials"] = self.counts()
        content["history"] = [as_json(asdict(trial)) for trial in self.trials]
        return content


def as_json(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its times as text."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in content.items()
    }


class StudyView:
    """Reads snapshots of one study; cheap enough to be asked every second."""

    def __init__(self, database: Database, record: StudyRecord) -> None:
        self._database = database
        self.record = record
        self.spec = StudySpec.model_validate(record.spec)
        self.search = StudySearch(database.optuna_storage(), self.spec)
        self.trials = TrialLeases(database, record.id, seconds=LEASE_SECONDS)
        self.queue = EvaluationQueue(database, record.id, seconds=LEASE_SECONDS)
        self.workers = Workers(database)
        self.final = FinalTest(self.queue, self.search)
        self.answers = AnswerStore(database, record.id)
        self._compared: dict[tuple[int, int, str, str], Difference] = {}

    def refresh(self) -> None:
        """Read the study's record again: a person may have stopped it or changed its budget.

        Raises StudyError when it was deleted.
        """
        self.record = find(self._database, self.record.name)
        self.spec = StudySpec.model_validate(self.record.spec)

    def over(self) -> bool:
        """Whether every trial of the budget has ended, and the winner was tested."""
        return self.trials_over() and not self.final.pending()

    def trials_over(self) -> bool:
        """Whether every trial of the budget has ended."""
        return self.trials.count() >= self.spec.budget.trials and self.trials.unfinished() == 0

    def read(self) -> Snapshot:
        """The study as it is now."""
        rows = {row.number: row for row in self.trials.rows()}
        answered = _answered(self.queue.recent(100_000))
        best = self.search.best_trial()
        workers = self.workers.present(self.record.id)
        base = self.queue.base()
        winner = _at(answered, best)
        base_test, best_test = self._tested()
        return Snapshot(
            name=self.record.name,
            state=self._state(rows, bool(workers)),
            metric=self.spec.objective.metric,
            direction=self.spec.objective.direction,
            budget=self.spec.budget.trials,
            trials=[
                _trial_view(
                    trial,
                    rows.get(trial.number),
                    answered.get(trial.number, []),
                    self._value(trial),
                )
                for trial in self.search.study.get_trials(deepcopy=False)
            ],
            workers=[WorkerView(w.kind, w.device, w.host, w.pid, w.phase) for w in workers],
            evaluations=self.queue.counts(),
            base=brief(base),
            best=best.number if best is not None else None,
            base_test=brief(base_test),
            best_test=brief(best_test),
            against_base=self._against(base, winner),
            against_base_test=self._against(base_test, best_test),
        )

    def _tested(self) -> tuple[EvaluationRecord | None, EvaluationRecord | None]:
        """Evaluations of the base model and of the winner on the test set."""
        if self.spec.data.test is None:
            return None, None
        return self.final.base(), self.final.winner()

    def _against(self, base: EvaluationRecord | None, best: EvaluationRecord | None) -> Difference:
        """Computed once for each pair: what was answered stays as it is."""
        if base is None or best is None:
            return None
        key = base.id, best.id, base.state, best.state
        if key not in self._compared:
            self._compared[key] = against_base(base, self._whole(best))
        return self._compared[key]

    def _whole(self, record: EvaluationRecord) -> EvaluationRecord:
        """The record with what it says of single items, which an overview may lack."""
        if record.test or record.number is None:
            return record
        records = self.queue.for_trial(record.number)
        return next(one for one in records if one.id == record.id)

    def _value(self, trial: FrozenTrial) -> float | None:
        # What Optuna calls the value of a pruned trial is its last report.
        if trial.state == TrialState.COMPLETE:
            return trial.value
        value: float | None = trial.user_attrs.get(self.spec.objective.metric)
        return value

    def _state(self, rows: dict[int, TrialRow], working: bool) -> str:
        # More may run than a budget that was lowered meanwhile.
        ended = all(row.state == "finished" for row in rows.values())
        if ended and len(rows) >= self.spec.budget.trials and not self.final.pending():
            return "finished"
        if self.record.stop_requested:
            return "stopped"
        return "running" if working else "idle"


def brief(record: EvaluationRecord | None) -> dict[str, Any] | None:
    """An evaluation's result without what it says of single items."""
    if record is None or record.result is None:
        return None
    return {name: value for name, value in record.result.items() if name not in OF_ITEMS}


def _at(
    answered: dict[int, list[EvaluationRecord]], best: FrozenTrial | None
) -> EvaluationRecord | None:
    """The evaluation that made the best trial the best; a person's has none."""
    if best is None:
        return None
    step = best.user_attrs.get("best_step")
    return next((r for r in answered.get(best.number, []) if r.step == step), None)


def _answered(records: list[EvaluationRecord]) -> dict[int, list[EvaluationRecord]]:
    """Evaluations with a result, by trial and there by step."""
    found: defaultdict[int, list[EvaluationRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.step):
        if record.number is not None and record.state == "done":
            found[record.number].append(record)
    return found


def _trial_view(
    trial: FrozenTrial, row: TrialRow | None, done: list[EvaluationRecord], value: float | None
) -> TrialView:
    attrs = trial.user_attrs
    last = done[-1] if done else None
    best = next((record for record in done if record.step == attrs.get("best_step")), last)
    scores = best.result or {} if best else {}
    return TrialView(
        number=trial.number,
        state=trial.state.name,
        parameters=dict(trial.params),
        value=value,
        loss=attrs.get("loss", scores.get("loss")),
        accuracy=attrs.get("accuracy", scores.get("accuracy")),
        best_step=attrs.get("best_step"),
        best_examples=attrs.get("best_examples"),
        step=last.step if last else 0,
        examples=last.examples if last else 0,
        rungs=sorted(verdicts(trial).values(), key=lambda verdict: verdict.rung),
        outcome=attrs.get("outcome"),
        reason=attrs.get("reason"),
        attempts=row.attempts if row else 0,
        held=bool(row and row.worker_id),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
        warnings=list(attrs.get("warnings", [])),
        accuracy_low=scores.get("accuracy_low"),
        accuracy_high=scores.get("accuracy_high"),
        categories=scores.get("categories"),
    )
