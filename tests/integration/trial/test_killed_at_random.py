"""SIGKILL anywhere in a step or in the writing of a state changes nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.tiny import make_model

CONFIG: dict[str, Any] = {
    "method": {"type": "lora", "rank": 4, "dropout": 0.2},
    "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1},
    "effective_batch_size": 8,
    "max_batches": 12,
    "regularisation": {
        "label_smoothing": 0.1,
        "rdrop": {"alpha": 0.5},
        "ema": {"decay": 0.9, "warmup_epochs": 0.3},
        "gradient_noise": {"scale": 1e-4},
    },
    "order": {"curriculum": {"start_fraction": 0.5}, "dynamic_curriculum": {"warmup_epochs": 0.5}},
    "compute": {"micro_batch": 2},
}


def trained(model: Path, states: Path, events: list[int]) -> tuple[list[None], str]:
    states.mkdir()
    request = {"model": str(model), "states": str(states), "config": CONFIG, "events": events}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_trial.py"))],
        input=json.dumps(request),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, result = json.loads(done.stdout)
    return killed, result


def test_a_trial_that_is_killed_again_and_again_ends_as_one_that_is_not(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    model = make_model(tmp_path / "model")
    # A step has four micro-batches and the two ends of its state's writing.
    draw = random.Random()
    events = [draw.randrange(3, 16) for _ in range(4)]
    record_property("events", events)
    _, whole = trained(model, tmp_path / "whole", [])
    killed, resumed = trained(model, tmp_path / "killed", events)
    assert killed == [None] * 4, events
    assert resumed == whole, events
