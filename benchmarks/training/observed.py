"""A trial worker that notes when it computes, as a process of its own.

`python -m benchmarks.training.observed FILE ARGUMENTS` is `hpo ARGUMENTS` and
writes a line of JSON per optimizer step when it ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

from hpo.cli.main import main as hpo
from workers.renewal import Renewer
from workers.trial.loop.report import StepReport
from workers.trial.loop.run import TrainingRun


@dataclass(frozen=True)
class Step:
    """One optimizer step, on a clock that only differences of tell something."""

    started: float
    ended: float
    database: float
    """Seconds of it in which a lease was renewed and the study looked up."""


@dataclass
class Notes:
    """What was noted so far."""

    steps: list[Step] = field(default_factory=list)
    _database: float = 0.0

    def step(self, train: Callable[[TrainingRun], StepReport]) -> Callable[..., StepReport]:
        """Note each step."""

        def noted(run: TrainingRun) -> StepReport:
            self._database, started = 0.0, perf_counter()
            report = train(run)
            self.steps.append(Step(started, perf_counter(), self._database))
            return report

        return noted

    def renewal(self, renew: Callable[[Renewer], None]) -> Callable[..., None]:
        """Note what the lease takes inside a step."""

        def noted(renewer: Renewer) -> None:
            started = perf_counter()
            renew(renewer)
            self._database += perf_counter() - started

        return noted


def main() -> None:
    """Run the command with a clock around its steps."""
    file, notes = Path(sys.argv.pop(1)), Notes()
    with (
        patch.object(TrainingRun, "train_batch", notes.step(TrainingRun.train_batch)),
        patch.object(Renewer, "__call__", notes.renewal(Renewer.__call__)),
    ):
        try:
            hpo()
        finally:
            lines = [json.dumps(asdict(step)) for step in notes.steps]
            file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
