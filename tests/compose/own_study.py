"""A study file of a person's own: with its data beside it, with a mistake, with more trials."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from checks import WORKERS, expect, settled
from stack import Stack

NAME = "sums.yaml"
TEXT = """\
name: sums
objective: {metric: loss, direction: minimize}
model: {path: "${HPO_HOME}/quickstart/model", dtype: float32}
data:
  train: {path: sums.jsonl}
  loss: {path: sums.jsonl, samples: 50}
  separator: ""
training:
  optimizer: {type: adamw, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
  effective_batch_size: 50
  max_examples: 400
  max_length: 32
evaluation: {every: {examples: 200}}
pruner: {type: none}
budget: {trials: 2}
"""


def check_mistake(stack: Stack, folder: Path) -> None:
    """A file with a mistake starts no worker, and the log says what is wrong."""
    (folder / "mistake.yaml").write_text(TEXT.replace("effective_batch_size", "batch"))
    mistaken = dataclasses.replace(stack, study="mistake.yaml")
    done = subprocess.run(
        mistaken.command("up", "--detach", "--no-build"),
        env=mistaken.environment,
        capture_output=True,
    )
    expect(done.returncode != 0, "a mistake in the study file is refused")
    code = mistaken.container("study")["State"]["ExitCode"]
    expect(code == 2, "the study service ended with 2")
    said = mistaken.compose("logs", "--no-log-prefix", "study")
    expect(said.startswith("error: mistake.yaml: training."), "its log says what is wrong")
    states = {mistaken.container(worker)["State"]["Status"] for worker in WORKERS}
    expect(states == {"created"}, "no worker was started")


def check_own_file(stack: Stack, folder: Path) -> None:
    """A file in the mounted folder runs, and goes on when its budget is raised.

    Uses the tiny model that the quickstart left in the state volume.
    """
    lines = [json.dumps({"prompt": f"{a}+{b}=", "completion": str(a + b)}) for a, b in pairs()]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    own = dataclasses.replace(stack, study=NAME)
    run_to_the_end(own, folder, trials=2)
    run_to_the_end(own, folder, trials=3)
    said = own.compose("logs", "--no-log-prefix", "study").splitlines()
    expect(said[-1] == "study sums: exists already, the same study", "it is the same study")


def pairs() -> list[tuple[int, int]]:
    """Numbers to add."""
    return [(a, b) for a in range(20) for b in range(20)]


def run_to_the_end(own: Stack, folder: Path, *, trials: int) -> None:
    """Bring the services up, as they are, and wait until the budget is spent."""
    (folder / NAME).write_text(TEXT.replace("trials: 2", f"trials: {trials}"))
    own.compose("up", "--detach", "--no-build")
    for worker in WORKERS:
        settled(own, worker)
    status = own.status()
    expect(status["state"] == "finished", "the study of one's own is finished")
    expect(status["trials"]["COMPLETE"] == trials, f"{trials} trials are complete")
