"""Whole studies by the real commands: real engines, real signals, real deaths."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from running_study import RunningStudy, wait_until, wandb_history

from hpo.results.snapshot import Snapshot
from hpo.spec.training.config import TrainingConfig

pytestmark = [pytest.mark.engine, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture
def study(inputs: Path) -> Iterator[RunningStudy]:
    # Not below pytest's folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="hpo-home-") as home:
        running = RunningStudy(Path(home), inputs)
        yield running
        running.end_all()


def _pid(snapshot: Snapshot, kind: str) -> int | None:
    return next((worker.pid for worker in snapshot.workers if worker.kind == kind), None)


def test_a_study_survives_the_death_of_both_workers_and_is_exported(study: RunningStudy) -> None:
    run = study.start()
    with study.watched() as look:
        wait_until(lambda: any(trial.rungs for trial in look().trials))
        trainer = _pid(look(), "trial")
        assert trainer is not None
        os.kill(trainer, signal.SIGKILL)
        wait_until(lambda: _pid(look(), "trial") not in (None, trainer))
        scorer = _pid(look(), "evaluation")
        assert scorer is not None
        os.kill(scorer, signal.SIGKILL)
        shown = study.finish(run)
        end = look()

    assert run.returncode == 0, shown
    assert "died with exit code -9" in shown
    assert end.state == "finished"
    assert len(end.trials) == 6
    assert Counter(end.evaluations)["open"] == Counter(end.evaluations)["claimed"] == 0
    assert any(trial.attempts > 1 for trial in end.trials)
    _check_results(study)
    _check_tracking(study)

    again = study.start()
    shown = study.finish(again)
    assert again.returncode == 0, shown
    assert "started, log in" not in shown, "nothing is started for a study that is over"
    assert len(study.results["trials"]) == 6


def _check_results(study: RunningStudy) -> None:
    results = study.results
    assert results["trials_by_state"]["RUNNING"] == 0
    assert results["trials_by_state"]["FAIL"] == 0
    assert results["trials_by_state"]["PRUNED"] >= 1
    assert sum(results["trials_by_state"].values()) == 6
    best = results["best_trial"]
    assert best["value"] == best["loss"]["value"]
    assert best["value"] < results["base_model"]["loss"]["value"] - 1
    accuracy = best["accuracy"]
    assert accuracy["total"] == 40
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["value"] == accuracy["correct"] / 40
    for scored in (results["base_model"], best):
        assert scored["test"]["accuracy"]["total"] == 20
        assert scored["test"]["loss"]["tokens"] > 20
    assert best["test"]["loss"]["value"] < results["base_model"]["test"]["loss"]["value"] - 1
    config = TrainingConfig.model_validate(results["training"])
    assert config.optimizer.learning_rate == best["parameters"]["optimizer.learning_rate"]
    assert {"hpo", "optuna", "torch", "transformers"} <= results["versions"].keys()
    assert (Path(best["checkpoint"]) / "model.safetensors").is_file()


def _check_tracking(study: RunningStudy) -> None:
    history = wandb_history(study.home / "tracking")
    assert {run.rsplit("-", 1)[-1] for run in history} == {f"{n:05d}" for n in range(6)}
    assert len(history) == 6, "a resumed attempt goes on in the same run"
    for names in history.values():
        wanted = {"train/loss", "train/learning_rate", "eval/loss", "eval/accuracy", "examples"}
        assert wanted <= names
        assert "group:acceptance" in names


def test_ctrl_c_keeps_the_running_trial_and_the_next_run_continues_it(study: RunningStudy) -> None:
    study.trials = 40
    run = study.start()
    with study.watched() as look:
        wait_until(lambda: any(trial.rungs for trial in look().trials))
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        shown = study.finish(run, seconds=60)
        stopped = look()
        assert run.returncode == 130, shown
        assert "Traceback" not in shown
        assert not psutil.wait_procs(children, timeout=5)[1], "no process is left"
        running = [trial for trial in stopped.trials if trial.state == "RUNNING"]
        assert len(running) == 1
        assert stopped.state == "idle"

        # The number of trials is a total, and may be changed: two more.
        study.trials = len(stopped.trials) + 2
        again = study.start()
        shown = study.finish(again)
        end = look()
    assert again.returncode == 0, shown
    assert "taken up again" in shown
    assert len(end.trials) == study.trials
    assert end.counts()["RUNNING"] == 0
    continued = end.trials[running[0].number]
    assert continued.attempts == 2
    assert continued.parameters == running[0].parameters


def test_workers_end_when_the_run_is_killed_and_the_next_run_finishes(study: RunningStudy) -> None:
    study.trials, study.answers = 40, False
    run = study.start()
    with study.watched() as look:
        wait_until(lambda: any(trial.rungs for trial in look().trials))
        workers = [psutil.Process(worker.pid) for worker in look().workers]
        assert len(workers) == 2
        run.kill()
        study.finish(run)
        assert not psutil.wait_procs(workers, timeout=60)[1], "workers outlive their run"
        study.trials = len(look().trials) + 1
        shown = study.finish(study.start())
        assert study.runs[-1].returncode == 0, shown
        assert look().counts()["RUNNING"] == 0
        assert len(look().trials) == study.trials
