"""A warning is recorded on its trial once, and shown wherever people look."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from in_process import run_here
from worker_lab import Lab

from hpo.cli.show import warning_lines
from hpo.results.export import results
from hpo.results.snapshot import StudyView
from hpo.search.register import find
from storage.database import Database
from workers.trial.health.signs import LossNotDecreasing
from workers.trial.loop.run import TrainingRun

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_a_warning_is_recorded_once_and_shown_with_its_trial(
    make_lab: Callable[..., Lab],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(LossNotDecreasing, "least_steps", 20)
    lab = make_lab(
        trials=1,
        max_examples=480,
        learning_rate="{choices: [1.0e-12, 1.1e-12]}",
        pruner="{type: none}",
    )
    steps = 0
    train_batch = TrainingRun.train_batch

    def cut_off(run: TrainingRun) -> object:
        """The device is lost near the end, after the warning."""
        nonlocal steps
        steps += 1
        if steps == run.total_steps:
            raise OSError("the device is gone")
        return train_batch(run)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(TrainingRun, "train_batch", cut_off)
        with pytest.raises(OSError, match="gone"):
            run_here(lab)
    told = [r.message for r in caplog.records if "loss_not_decreasing" in r.message]
    assert len(told) == 1
    assert told[0].startswith("trial 0: loss_not_decreasing: after ")
    # No state was saved: the second attempt sees the same curve from its start.
    run_here(lab)

    view = StudyView(database, find(database, "lab"))
    snapshot = view.read()
    (warning,) = snapshot.trials[0].warnings
    assert warning["name"] == "loss_not_decreasing"
    assert warning["step"] >= 50
    assert warning_lines(snapshot) == [
        f"trial 0, batch {warning['step']}: loss_not_decreasing: {warning['message']}"
    ]
    assert results(view)["best_trial"]["warnings"] == [warning]
    assert snapshot.as_dict()["history"][0]["warnings"] == [warning]
