"""Weights & Biases, one run per trial, grouped by study."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol

from hpo.search.course import Point
from hpo.spec.study import StudySpec, WandbTracking
from storage.studies import StudyRecord
from workers.trial.loop.report import StepReport

logger = logging.getLogger(__name__)

METRICS = ("loss", "perplexity", "accuracy", "accuracy_low", "accuracy_high", "truncated")
"""What is logged of an evaluation besides its categories and the task's measures."""
ANSWERS = "graded_answers.jsonl"
BaseScores = Callable[[], Mapping[str, float]]


class Tracker(Protocol):
    """Takes what happens in a trial; examples seen are the axis."""

    def train(self, report: StepReport) -> None:
        """One optimizer step was made."""

    def evaluation(self, point: Point) -> None:
        """One evaluation was answered, after training had gone on maybe."""

    def graded_answers(self, lines: Sequence[bytes], about: Mapping[str, Any]) -> None:
        """The trial has ended: the answers of its best evaluation, as lines of JSON."""


class NoTracker:
    """Tracking is off."""

    def train(self, report: StepReport) -> None:
        """Nothing to do."""

    def evaluation(self, point: Point) -> None:
        """Nothing to do."""

    def graded_answers(self, lines: Sequence[bytes], about: Mapping[str, Any]) -> None:
        """Nothing to do."""


class WandbTracker:
    """Logs into one W&B run."""

    def __init__(self, run: Any, log_every: int, base: BaseScores = dict) -> None:
        self._run = run
        self._log_every = log_every
        self._base = base
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
        """Log the scores at the examples that the checkpoint had seen.

        The base model's go with them: a line to compare with, and a part of
        the run's summary.
        """
        base = {f"base/{name}": value for name, value in self._base().items()}
        self._run.log({"examples": point.examples, **evaluation_metrics(point), **base})

    def graded_answers(self, lines: Sequence[bytes], about: Mapping[str, Any]) -> None:
        """Save the answers as an artifact of the run.

        Offline they stay in the run's own folder, from which `wandb sync` takes
        them. What W&B cannot take is only warned of.
        """
        import wandb

        try:
            file = Path(self._run.dir).parent / ANSWERS
            file.write_bytes(b"".join(lines))
            artifact = wandb.Artifact(
                f"answers-{self._run.id}", type="graded_answers", metadata=dict(about)
            )
            # Neither copied nor cached below the user's home.
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)
        except (wandb.errors.Error, OSError, ValueError) as error:
            logger.warning("graded answers are not saved with W&B: %s", error)


def evaluation_metrics(point: Point) -> dict[str, float]:
    """An evaluation's metrics by the names of their curves, as far as they are finite."""
    known = {f"eval/{name}": point.value(name) for name in METRICS}
    for name, value in (point.metrics.get("measures") or {}).items():
        # W&B sorts and filters by plain names only.
        known[f"eval/{name.replace('@', '_at_')}"] = float(value)
    for category, count in (point.metrics.get("categories") or {}).items():
        known[f"eval/categories/{category}"] = float(count)
    return {name: value for name, value in known.items() if value is not None}


@contextmanager
def tracking(
    record: StudyRecord,
    spec: StudySpec,
    number: int,
    parameters: Mapping[str, Any],
    base: BaseScores,
) -> Iterator[Tracker]:
    """The tracker of one trial; a resumed attempt goes on in the same run.

    `base` gives the base model's scores, as far as they are known. A tracker
    that cannot be reached costs its curves, not the trial.
    """
    run = _wandb_run(record, spec, number, parameters) if spec.tracking.wandb else None
    if run is None:
        yield NoTracker()
        return
    with run:
        yield WandbTracker(run, spec.tracking.log_every, base)


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
