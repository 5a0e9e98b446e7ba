"""Weights & Biases, one run per trial, grouped by study."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol

from hpo.search.course import Point
from hpo.spec.study import StudySpec, WandbTracking
from storage.studies import StudyRecord
from workers.trial.loop.report import StepReport

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes what happens in a trial; examples seen are the axis."""

    def train(self, report: StepReport) -> None:
        """One optimizer step was made."""

    def evaluation(self, point: Point) -> None:
        """One evaluation was answered, after training had gone on maybe."""


class NoTracker:
    """Tracking is off."""

    def train(self, report: StepReport) -> None:
        """Nothing to do."""

    def evaluation(self, point: Point) -> None:
        """Nothing to do."""


class WandbTracker:
    """Logs into one W&B run."""

    def __init__(self, run: Any, log_every: int) -> None:
        self._run = run
        self._log_every = log_every
        run.define_metric("examples")
        run.define_metric("*", step_metric="examples")

    def train(self, report: StepReport) -> None:
        """Log loss, learning rate and gradient norm, at the first step and every so often."""
        if report.step % self._log_every == 0 or report.step == 1:
            self._run.log(
                {
                    "examples": report.examples,
                    "train/loss": report.loss,
                    "train/learning_rate": report.learning_rate,
                    "train/gradient_norm": report.gradient_norm,
                }
            )

    def evaluation(self, point: Point) -> None:
        """Log the scores at the examples that the checkpoint had seen."""
        scores = {
            f"eval/{name}": value
            for name in ("loss", "accuracy")
            if (value := point.value(name)) is not None
        }
        self._run.log({"examples": point.examples, **scores})


@contextmanager
def tracking(
    record: StudyRecord, spec: StudySpec, number: int, parameters: Mapping[str, Any]
) -> Iterator[Tracker]:
    """The tracker of one trial; a resumed attempt goes on in the same run.

    A tracker that cannot be reached costs its curves, not the trial.
    """
    run = _wandb_run(record, spec, number, parameters) if spec.tracking.wandb else None
    if run is None:
        yield NoTracker()
        return
    with run:
        yield WandbTracker(run, spec.tracking.log_every)


def _wandb_run(
    record: StudyRecord, spec: StudySpec, number: int, parameters: Mapping[str, Any]
) -> Any:
    import wandb

    config = spec.tracking.wandb
    assert config is not None
    directory = Path(config.directory or record.checkpoints)
    # A study that was deleted and made again has runs of its own.
    made = record.created_at.strftime("%y%m%d%H%M%S")
    try:
        # Else wandb warns, and may take the folder for temporary files.
        directory.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=config.project,
            entity=config.entity,
            group=spec.name,
            name=f"{spec.name}-{number:03d}",
            id=f"{spec.name}-{made}-{number:05d}".replace(".", "-"),
            resume="allow",
            mode=wandb_mode(config),
            dir=directory,
            config=dict(parameters),
            settings=wandb.Settings(silent=True, console="off"),
        )
    except (wandb.errors.Error, OSError) as error:
        logger.warning("trial %d is not tracked: %s", number, error)
        return None


def wandb_mode(config: WandbTracking) -> Literal["online", "offline"]:
    """`auto` is online where a key is found, offline elsewhere."""
    if config.mode != "auto":
        return config.mode
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, NetrcParseError):
        return False
