"""The studies that are measured, with a tiny model and data made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.tiny import make_arithmetic, make_model


@dataclass(frozen=True)
class Scene:
    """A study and what its inputs are made of."""

    name: str
    title: str
    hidden_size: int
    layers: int
    make_data: Callable[[Path], None]
    """Writes train.jsonl and valid.jsonl into a folder."""
    max_new_tokens: int
    settings: dict[str, Any]
    """The sections of the study file that differ between scenes."""

    def write(self, folder: Path) -> Path:
        """Make model and data below the folder; returns the study file."""
        make_model(folder / "model", hidden_size=self.hidden_size, layers=self.layers)
        self.make_data(folder / "data")
        file = folder / "study.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(self._study(folder)))
        return file

    def _study(self, folder: Path) -> dict[str, Any]:
        valid = str(folder / "data" / "valid.jsonl")
        return {
            "name": self.name,
            "objective": {"metric": "loss", "direction": "minimize"},
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "data": {
                "train": {"path": str(folder / "data" / "train.jsonl")},
                "loss": {"path": valid},
                "generation": {"path": valid, "max_new_tokens": self.max_new_tokens},
                "separator": "",
            },
            **self.settings,
        }


def make_counting(folder: Path, *, items: int = 250, numbers: int = 16) -> None:
    """Write rows that go on counting, `7+3=` with `10 13 16 ...`: long answers.

    As many rows are held out as are trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_counting(start, stride, numbers) for start in range(10, 110) for stride in range(10)]
    for name, part in (("train", rows[::2]), ("valid", rows[1::2])):
        lines = [json.dumps(row) for row in part[:items]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def _counting(start: int, stride: int, numbers: int) -> dict[str, str]:
    values = [start + stride * (index + 1) for index in range(numbers)]
    return {"prompt": f"{start}+{stride}=", "completion": " ".join(map(str, values))}


SHORT = Scene(
    name="short-evaluations",
    title="tiny study: many trials, evaluations of a fraction of a second",
    hidden_size=64,
    layers=2,
    make_data=make_arithmetic,
    max_new_tokens=6,
    settings={
        "training": {
            "optimizer": {
                "type": "adamw",
                "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
                "weight_decay": {"low": 0.0, "high": 0.5},
            },
            "effective_batch_size": {"choices": [16, 32, 64]},
            "schedule": {"type": "cosine", "warmup_ratio": 0.05},
            "max_examples": 8100,
            "max_length": 32,
        },
        "evaluation": {"every": {"examples": 1350}},
        "sampler": {"type": "tpe", "seed": 7, "startup_trials": 6},
        "pruner": {"type": "asha", "reduction_factor": 3, "min_resource": 900},
        "budget": {"trials": 20},
    },
)

LONG = Scene(
    name="long-evaluations",
    title="few trials of a larger model, evaluations of seconds",
    hidden_size=256,
    layers=4,
    make_data=make_counting,
    max_new_tokens=64,
    settings={
        "training": {
            "optimizer": {
                "type": "adamw",
                "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            },
            "effective_batch_size": 16,
            "max_batches": 20,
            "max_length": 96,
        },
        "evaluation": {"every": {"batches": 10}},
        "sampler": {"type": "random", "seed": 1},
        "pruner": {"type": "none"},
        "budget": {"trials": 3},
    },
)
