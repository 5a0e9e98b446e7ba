"""Studies in memory for the tests of the search."""

from __future__ import annotations

from typing import Any

from optuna.storages import InMemoryStorage

from hpo.search.course import Ending, Outcome, Point
from hpo.search.study import StudySearch
from hpo.spec.load import parse_study
from hpo.spec.study import StudySpec

STUDY = """\
name: tiny
objective: {metric: METRIC, direction: DIRECTION}
model: {path: base}
data:
  train: {path: train.jsonl}
  loss: {path: valid.jsonl}
  generation: {path: valid.jsonl}
training:
  optimizer:
    type: adamw
    learning_rate: {low: 1e-5, high: 1e-1, log: true}
    weight_decay: {low: 0.0, high: 0.1}
  effective_batch_size: {choices: [8, 16]}
  max_examples: 900
evaluation: {every: {batches: 1}EARLY}
sampler: {type: tpe, seed: 3, startup_trials: 3}
pruner: {type: asha, reduction_factor: 3, min_resource: 100}
budget: {trials: 20}
"""
CONDITIONAL = (
    "max_examples: 900",
    "max_examples: 900\n  method: {choices: [{type: full}, "
    "{type: lora, rank: {choices: [8, 64]}, dropout: {low: 0.0, high: 0.5}}]}",
)


def study_spec(
    *edits: tuple[str, str], metric: str = "loss", early_stopping: str | None = None
) -> StudySpec:
    """The tests' study, with texts replaced."""
    text = STUDY.replace("METRIC", metric)
    text = text.replace("DIRECTION", "minimize" if metric == "loss" else "maximize")
    text = text.replace("EARLY", f", early_stopping: {early_stopping}" if early_stopping else "")
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return parse_study(text, "study.yaml", {})


def created(spec: StudySpec) -> tuple[StudySearch, InMemoryStorage]:
    """A new study and the storage that holds it."""
    storage = InMemoryStorage()
    StudySearch.create(storage, spec)
    return StudySearch(storage, spec), storage


def point(
    step: int,
    loss: float | str | None,
    *,
    rung: int | None = None,
    accuracy: float | None = None,
    error: str | None = None,
) -> Point:
    """An answered evaluation after `step` batches of eight."""
    metrics: dict[str, Any] = {"loss": loss, "accuracy": accuracy}
    return Point(step, step * 8, rung, f"step-{step}", {} if error else metrics, error)


def complete(loss: float) -> Ending:
    """The end of a trial whose best loss is given."""
    return Ending(Outcome.COMPLETE, "trained all 5 batches", point(5, loss))
