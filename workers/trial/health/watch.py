"""Watches one trial, and records each warning once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from hpo.search.course import Point
from storage.trials import TrialLease
from workers.session import StudySession
from workers.trial.health.memory import memory_of
from workers.trial.health.signs import (
    ExplodingGradients,
    HealthWarning,
    LossNotDecreasing,
    Memory,
    MemoryCloseToLimit,
    Overfitting,
    ThroughputDropping,
)
from workers.trial.loop.report import StepReport

logger = logging.getLogger(__name__)

ATTRIBUTE = "warnings"
"""User attribute of Optuna's trial that holds them."""


class HealthWatch:
    """Looks for every sign of ill health; each is told once per trial.

    `told` are the names that an earlier attempt told. `tell` is called with
    what is new.
    """

    def __init__(
        self,
        total_steps: int,
        look: Callable[[], Memory],
        told: frozenset[str],
        tell: Callable[[HealthWarning], None],
    ) -> None:
        self._overfitting = Overfitting()
        self._signs = (
            LossNotDecreasing(total_steps),
            ExplodingGradients(),
            ThroughputDropping(),
            MemoryCloseToLimit(look),
        )
        self._told = set(told)
        self._tell = tell

    def train(self, report: StepReport) -> None:
        """One optimizer step was made."""
        self._overfitting.step(report)
        for sign in self._signs:
            if sign.name not in self._told:
                self._note(sign.name, report.step, sign.step(report))

    def evaluation(self, point: Point) -> None:
        """One evaluation was answered."""
        message = self._overfitting.point(point)
        if self._overfitting.name not in self._told:
            self._note(self._overfitting.name, point.step, message)

    def _note(self, name: str, step: int, message: str | None) -> None:
        if message is not None:
            self._told.add(name)
            self._tell(HealthWarning(name, step, message))


def watch(
    session: StudySession, lease: TrialLease, total_steps: int, device: torch.device
) -> HealthWatch:
    """Watches a trial that this worker holds; warnings go to the trial and the log."""
    known = list(session.search.fresh(lease.trial_id).user_attrs.get(ATTRIBUTE, []))

    def tell(warning: HealthWarning) -> None:
        logger.warning("trial %d: %s: %s", lease.number, warning.name, warning.message)
        known.append(warning.as_dict())
        session.search.note(lease.trial_id, ATTRIBUTE, known)

    told = frozenset(warning["name"] for warning in known)
    return HealthWatch(total_steps, lambda: memory_of(device), told, tell)
