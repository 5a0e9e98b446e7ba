"""Our way: `hpo run` on the study file, measured from its database and its log."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.journal import entries, switches, total_steps
from benchmarks.measured import Evaluation, Measured, Replay, ReplayedTrial
from benchmarks.processes import run
from hpo.results.snapshot import StudyView, TrialView
from hpo.search.register import find
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.records import EvaluationRecord


def run_ours(name: str, study: Path, folder: Path) -> tuple[Measured, Replay]:
    """Run the study with a new embedded database below the folder."""
    output = folder / "results"
    command = ["-m", "hpo", "run", str(study), "--no-dashboard", "--output", str(output)]
    started = time.perf_counter()
    run(command, folder / "home")
    wall = time.perf_counter() - started
    log = (output / "logs" / "trial-worker.log").read_text().splitlines()
    with (
        EmbeddedPostgres(folder / "home" / "postgres") as server,
        Database.open(server.url) as database,
    ):
        return _read(StudyView(database, find(database, name)), wall, log)


def _read(view: StudyView, wall: float, log: list[str]) -> tuple[Measured, Replay]:
    found = list(entries(log))
    trials = view.read().trials
    counted = {trial.number: _counted(view, trial) for trial in trials}
    every = [record for record in view.queue.recent(100_000) if record.state == "done"]
    evaluations = [_evaluation(record) for records in counted.values() for record in records]
    measured = Measured(
        wall=wall,
        working=_working(view),
        switches=switches(found),
        steps=total_steps(found),
        evaluations=evaluations,
        unused_evaluations=len(every) - len(evaluations),
        load_average=os.getloadavg()[0],
    )
    return measured, Replay(
        spec=view.spec, trials=[_replayed(view, number, counted[number]) for number in counted]
    )


def _counted(view: StudyView, trial: TrialView) -> list[EvaluationRecord]:
    """A trial's answered evaluations up to the one that ended it."""
    records = [r for r in view.queue.for_trial(trial.number) if r.state == "done"]
    ends = [record.step for record in records if _pruned_at(trial, record)]
    return [record for record in records if not ends or record.step <= ends[0]]


def _pruned_at(trial: TrialView, record: EvaluationRecord) -> bool:
    return any(verdict.rung == record.rung and not verdict.keep for verdict in trial.rungs)


def _working(view: StudyView) -> float:
    """From both workers having begun to work to the end of the last trial."""
    base = view.queue.base()
    assert base is not None
    assert base.claimed_at is not None
    rows = view.trials.rows()
    first = min(view.trials.attempts(row.number)[0].started_at for row in rows)
    last = max(row.finished_at for row in rows if row.finished_at is not None)
    return (last - max(first, base.claimed_at)).total_seconds()


def _evaluation(record: EvaluationRecord) -> Evaluation:
    assert record.number is not None
    assert record.claimed_at is not None
    assert record.finished_at is not None
    result: dict[str, Any] = record.result or {}
    timings = result["timings"]
    return Evaluation(
        trial=record.number,
        step=record.step,
        loss=float(result["loss"]),
        accuracy=float(result["accuracy"]),
        seconds=(record.finished_at - record.claimed_at).total_seconds(),
        load=timings["load"],
        generate=timings["generate"],
        grade=timings["grade"],
        switch=timings["switch"],
        forward=timings["loss"],
    )


def _replayed(view: StudyView, number: int, records: list[EvaluationRecord]) -> ReplayedTrial:
    trial = next(t for t in view.search.study.get_trials(deepcopy=False) if t.number == number)
    return ReplayedTrial(
        number=number,
        training=view.search.config(trial._trial_id),
        evaluated_steps=[record.step for record in records],
    )
