"""How long a trial trains."""

from __future__ import annotations

import math

from hpo.spec.training.config import TrainingConfig
from workers.trial.rounding import rounded_up


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Optimizer steps of a trial: the smallest of its limits, in whole batches, one at least."""
    batch = config.effective_batch_size
    limits = [
        config.max_batches,
        None if config.max_examples is None else math.ceil(config.max_examples / batch),
        None if config.epochs is None else rounded_up(config.epochs * examples / batch),
    ]
    return max(1, min(limit for limit in limits if limit is not None))
