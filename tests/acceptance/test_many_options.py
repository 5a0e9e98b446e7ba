"""A study that searches far more than a learning rate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

STUDY = """
name: many-options
objective: {{metric: loss, direction: minimize}}
model: {{path: "{inputs}/model", dtype: float32}}
data:
  train: {{path: "{inputs}/data/train.jsonl"}}
  loss: {{path: "{inputs}/data/valid.jsonl", samples: 60}}
  separator: ""
training:
  method:
    choices:
      - type: full
      - type: lora
        rank: {{choices: [4, 8]}}
        alpha_ratio: {{choices: [1, 2]}}
        dropout: {{low: 0.0, high: 0.2}}
        target_modules: {{choices: [all-linear, attention]}}
        dora: {{choices: [false, true]}}
  optimizer:
    choices:
      - type: adamw
        learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
        layer_decay: {{low: 0.7, high: 1.0}}
      - type: muon
        learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
        momentum: {{low: 0.9, high: 0.98}}
  schedule:
    choices:
      - {{type: linear, warmup_ratio: {{low: 0.0, high: 0.2}}}}
      - {{type: cosine-restarts, cycles: {{low: 1, high: 3}}}}
      - {{type: wsd, decay_ratio: {{low: 0.1, high: 0.4}}}}
  effective_batch_size: {{choices: [8, 16]}}
  max_examples: 640
  max_length: 32
  packing: {{choices: [false, true]}}
  regularisation:
    label_smoothing: {{low: 0.0, high: 0.1}}
    ema: {{choices: [null, {{decay: {{low: 0.9, high: 0.99}}}}]}}
    gradient_noise: {{choices: [null, {{scale: {{low: 1.0e-6, high: 1.0e-4, log: true}}}}]}}
    neftune: {{choices: [null, {{alpha: {{choices: [1, 5]}}}}]}}
  order:
    curriculum: {{choices: [null, {{start_fraction: {{low: 0.3, high: 1.0}}}}]}}
    dynamic_curriculum: {{choices: [null, {{warmup_epochs: 0.1, strength: {{low: 0.5, high: 2}}}}]}}
evaluation: {{every: {{examples: 320}}}}
sampler: {{type: tpe, seed: 3, startup_trials: 4}}
pruner: {{type: asha, reduction_factor: 2, min_resource: 320}}
budget: {{trials: 10}}
"""
ROW = {
    "number",
    "state",
    "value",
    "loss",
    "accuracy",
    "step",
    "examples",
    "attempts",
    "seconds",
    "reason",
    "warnings",
}
"""What a row of the results holds besides the parameters."""


def test_a_study_of_many_options_with_conditions_runs_to_its_end(
    inputs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(inputs=inputs))
    # Postgres runs as a user of its own, who cannot enter pytest's folders.
    home = tempfile.mkdtemp(prefix="hpo-many-options-")
    Path(home).chmod(0o755)
    command = [sys.executable, "-m", "hpo", "run", str(file), "--no-dashboard"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        env={**os.environ, "HPO_HOME": home, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = yaml.safe_load((tmp_path / "out" / "study_results.yaml").read_text())
    trials = results["trials"]
    assert len(trials) == 10
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "PRUNED"}
    drawn = [set(trial) - ROW for trial in trials]
    assert len(set().union(*drawn)) >= 12
    # Conditions: what an option does not have is not drawn beside it.
    for trial, names in zip(trials, drawn, strict=True):
        for choice, inside in (("method", "lora"), ("optimizer", "muon"), ("schedule", "wsd")):
            below = {name for name in names if name.startswith(f"{choice}.{inside}.")}
            assert bool(below) == (trial[choice] == inside)
    assert results["best_trial"]["loss"]["value"] < results["base_model"]["loss"]["value"]
