"""How often curves are sent."""

from __future__ import annotations

from typing import Any

import pytest

from workers.trial.loop.report import StepReport
from workers.trial.tracking import WandbTracker


class Run:
    """Collects what a W&B run would be sent."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        """Nothing to collect."""

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


@pytest.mark.parametrize(("log_every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 3, 6])])
def test_curves_have_a_point_every_so_many_steps_and_at_the_first(
    log_every: int, steps: list[int]
) -> None:
    run = Run()
    tracker = WandbTracker(run, log_every)
    for step in range(1, 8):
        tracker.train(StepReport(step, 8 * step, 2.0, 2.5, 80, 100, 1.0, 1e-3, 8, 0.1))
    assert [values["examples"] for values in run.logged] == [8 * step for step in steps]
    assert run.logged[0]["train/loss"] == 2.0
