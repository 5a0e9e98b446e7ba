"""What W&B is sent, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb

from hpo.search.course import Point
from workers.trial.loop.report import StepReport
from workers.trial.tracking import WandbTracker


class Run:
    """Collects what a W&B run would be sent."""

    id = "study-00003"

    def __init__(self, folder: Path = Path()) -> None:
        self.dir = str(folder / "files")
        self.logged: list[dict[str, Any]] = []
        self.artifacts: list[wandb.Artifact] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        """Nothing to collect."""

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: wandb.Artifact) -> None:
        self.artifacts.append(artifact)


@pytest.mark.parametrize(("log_every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 3, 6])])
def test_curves_have_a_point_every_so_many_steps_and_at_the_first(
    log_every: int, steps: list[int]
) -> None:
    run = Run()
    tracker = WandbTracker(run, log_every)
    for step in range(1, 8):
        tracker.train(StepReport(step, 8 * step, 2.0, 2.5, 80, 100, 1.0, 1e-3, 8, 0.1))
    assert [values["examples"] for values in run.logged] == [8 * step for step in steps]
    assert run.logged[0]["train/loss"] == 2.0


def test_an_evaluation_is_told_beside_the_base_model() -> None:
    run = Run()
    metrics = {
        "loss": 0.5,
        "perplexity": "inf",
        "accuracy": 0.75,
        "accuracy_low": 0.5,
        "accuracy_high": 0.875,
        "truncated": 2,
        "categories": {"correct": 6, "wrong_answer": 2},
        "measures": {"pass@4": 0.8},
    }
    tracker = WandbTracker(run, 1, lambda: {"loss": 2.0, "accuracy": 0.25})
    tracker.evaluation(Point(5, 160, None, None, metrics))
    assert run.logged == [
        {
            "examples": 160,
            "eval/loss": 0.5,
            "eval/accuracy": 0.75,
            "eval/accuracy_low": 0.5,
            "eval/accuracy_high": 0.875,
            "eval/truncated": 2.0,
            "eval/pass_at_4": 0.8,
            "eval/categories/correct": 6.0,
            "eval/categories/wrong_answer": 2.0,
            "base/loss": 2.0,
            "base/accuracy": 0.25,
        }
    ]


def test_an_old_evaluation_has_fewer_metrics() -> None:
    run = Run()
    WandbTracker(run, 1).evaluation(Point(5, 160, None, None, {"loss": 0.5, "accuracy": None}))
    assert run.logged == [{"examples": 160, "eval/loss": 0.5}]


def test_graded_answers_are_an_artifact_of_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    WandbTracker(run, 1).graded_answers([b'{"item": 0}\n', b'{"item": 1}\n'], {"trial": 3})
    [artifact] = run.artifacts
    assert (artifact.name, artifact.type) == ("answers-study-00003", "graded_answers")
    assert artifact.metadata == {"trial": 3}
    [entry] = artifact.manifest.entries.values()
    # In the run's own folder, which is synchronised later where there is no network.
    assert entry.local_path == str(tmp_path / "graded_answers.jsonl")
    assert Path(entry.local_path).read_bytes() == b'{"item": 0}\n{"item": 1}\n'


def test_an_artifact_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "missing")
    WandbTracker(run, 1).graded_answers([b"{}\n"], {})
    assert run.artifacts == []
    assert "graded answers are not saved with W&B" in caplog.text
