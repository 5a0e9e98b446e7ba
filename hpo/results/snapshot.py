"""A study as people see it: trials, verdicts, workers, the best so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import Verdict, verdicts
from hpo.search.final import FinalTest
from hpo.search.register import find
from hpo.search.study import StudySearch
from hpo.spec.study import StudySpec
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord
from storage.studies import StudyRecord
from storage.trials import TrialLeases, TrialRow
from storage.workers import Workers

LEASE_SECONDS = 60.0


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
    """The base model's scores."""
    best: int | None
    """Number of the best trial."""
    base_test: dict[str, Any] | None = None
    """The base model's scores on the test set, once they are there."""
    best_test: dict[str, Any] | None = None
    """The best trial's."""

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
        content["history"] = [_json(asdict(trial)) for trial in self.trials]
        return content


def _json(trial: dict[str, Any]) -> dict[str, Any]:
    for name in ("started", "finished"):
        trial[name] = trial[name].isoformat() if trial[name] else None
    return trial


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
        records = self.queue.recent(100_000)
        best = self.search.best_trial()
        workers = self.workers.present(self.record.id)
        base = self.queue.base()
        tested = self._tested()
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
                    _answered(records, trial.number),
                    self._value(trial),
                )
                for trial in self.search.study.get_trials(deepcopy=False)
            ],
            workers=[WorkerView(w.kind, w.device, w.host, w.pid, w.phase) for w in workers],
            evaluations=self.queue.counts(),
            base=base.result if base is not None else None,
            best=best.number if best is not None else None,
            base_test=tested[0],
            best_test=tested[1],
        )

    def _tested(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Scores of the base model and of the winner on the test set."""
        if self.spec.data.test is None:
            return None, None
        base, winner = self.final.base(), self.final.winner()
        return base.result if base else None, winner.result if winner else None

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


def _answered(records: list[EvaluationRecord], number: int) -> list[EvaluationRecord]:
    mine = (r for r in records if r.number == number and r.state == "done")
    return sorted(mine, key=lambda record: record.step)


def _trial_view(
    trial: FrozenTrial, row: TrialRow | None, done: list[EvaluationRecord], value: float | None
) -> TrialView:
    attrs = trial.user_attrs
    last = done[-1] if done else None
    scores = last.result or {} if last else {}
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
    )
