"""How far a trial goes through its data, and what it therefore never does."""

from __future__ import annotations

from collections.abc import Iterator

from hpo.spec.errors import Problem
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.contradictions import never_on
from workers.trial.failures import InvalidTrial
from workers.trial.loop.length import total_steps


def idle_features(config: TrainingConfig, examples: int) -> Iterator[Problem]:
    """Features that begin after the last of a trial's steps, with so many training examples."""
    steps, batch = total_steps(config, examples), config.effective_batch_size
    return never_on(config, (steps - 1) * batch / examples, steps * batch / examples)


def require_all_used(config: TrainingConfig, examples: int) -> None:
    """Refuse a trial with a feature that it would never come to. Raises InvalidTrial."""
    for problem in idle_features(config, examples):
        raise InvalidTrial(
            f"training.{problem.path}: given {problem.given}; allowed: {problem.allowed}"
        )
