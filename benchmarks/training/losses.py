"""What a trial loses by checkpoints, training states and asking the database.

A real `hpo run` with its embedded Postgres and a real evaluation worker; the
trial worker beside it is the real one with a clock around its steps.
`python -m benchmarks.training.losses [--steps N] [--every N]` prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.processes import environment, run
from benchmarks.scenes import make_counting
from benchmarks.training.models import TEN_MILLION
from benchmarks.training.observed import Step
from benchmarks.training.timing import load
from workers.tiny import make_tokenizer

NAME = "losses"
LONG_GAP = 0.01
"""Seconds between two steps above which something was saved there."""
BESIDE = 5
"""Steps behind a save that may run beside the writing."""


@dataclass(frozen=True)
class Lost:
    """Shares of the time from the first step's end to the last one's."""

    seconds: float
    between: float
    """Nothing is computed between steps: weights and states are copied and
    handed over, curves and health are noted, the database is asked."""
    within: float
    """A lease is renewed, or the study looked up, inside a step."""
    saves: int
    slower: float
    """How much longer the steps behind a save take than the others, in the median."""

    @property
    def share(self) -> float:
        """All that is lost."""
        return (self.between + self.within) / self.seconds


def lost(steps: Sequence[Step]) -> Lost:
    """What is lost, by the clock around each step; the first one warms up."""
    gaps = [after.started - before.ended for before, after in pairwise(steps)]
    saves = [index + 1 for index, gap in enumerate(gaps) if gap > LONG_GAP]
    behind = {index + n for index in saves for n in range(BESIDE) if index + n < len(steps)}
    lengths = [step.ended - step.started for step in steps]
    others = [length for index, length in enumerate(lengths) if index and index not in behind]
    slow = median(lengths[index] for index in behind) if behind else 0.0
    return Lost(
        seconds=steps[-1].ended - steps[0].ended,
        between=sum(gaps),
        within=sum(step.database for step in steps[1:]),
        saves=len(saves),
        slower=slow / median(others) - 1 if behind and others else 0.0,
    )


def measure(steps: int, every: int) -> Lost:
    """One full trial of a ten-million-parameter model, evaluated `every` so many steps."""
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as name:
        folder = Path(name)
        study, notes = _write(folder, steps, every), folder / "steps.jsonl"
        run(["-m", "hpo", "study", "create", str(study)], folder / "home")
        worker = _start_worker(notes, folder)
        try:
            arguments = ["run", str(study), "--no-dashboard", "--output", str(folder / "out")]
            run(["-m", "hpo", *arguments], folder / "home")
            if worker.wait(60) != 0:
                raise SystemExit((folder / "worker.log").read_text())
        finally:
            worker.kill()
        return lost([Step(**json.loads(line)) for line in notes.read_text().splitlines()])


def _start_worker(notes: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.training.observed", str(notes)]
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "worker", "trial", "--study", NAME, "--device", "cpu"],
            env=environment(folder / "home"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _write(folder: Path, steps: int, every: int) -> Path:
    """Model, data and study file."""
    model = TEN_MILLION.write(folder / "model")
    make_tokenizer(model)
    make_counting(folder / "data")
    study = {
        "name": NAME,
        "objective": {"metric": "loss", "direction": "minimize"},
        "model": {"path": str(model), "dtype": "float32"},
        "data": {
            "train": {"path": str(folder / "data" / "train.jsonl")},
            "loss": {"path": str(folder / "data" / "valid.jsonl"), "samples": 16},
        },
        "training": {
            "optimizer": {"learning_rate": {"low": 1e-5, "high": 1e-4, "log": True}},
            "effective_batch_size": 16,
            "max_batches": steps,
            "max_length": 96,
        },
        "evaluation": {"every": {"batches": every}},
        "sampler": {"type": "random"},
        "pruner": {"type": "none"},
        "budget": {"trials": 1},
    }
    file = folder / "study.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(study))
    return file


def table(found: Lost, steps: int) -> list[str]:
    """Lines of Markdown."""
    return [
        f"### what a trial loses: {TEN_MILLION.name} model, full, {steps} steps in "
        f"{found.seconds:.0f} s, {found.saves} saves",
        "",
        "| training stands still | seconds | share |",
        "|---|---:|---:|",
        f"| between steps | {found.between:.2f} | {found.between / found.seconds:.2%} |",
        f"| inside steps, for the database | {found.within:.2f} | "
        f"{found.within / found.seconds:.2%} |",
        f"| together | {found.between + found.within:.2f} | {found.share:.2%} |",
        "",
        f"The {BESIDE} steps behind a save took {found.slower:+.1%} as long as the others, beside "
        f"the writing and the evaluation. {os.cpu_count()} cores. {load()}",
        "",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=40)
    given = parser.parse_args()
    print("\n".join(table(measure(given.steps, given.every), given.steps)))


if __name__ == "__main__":
    main()
