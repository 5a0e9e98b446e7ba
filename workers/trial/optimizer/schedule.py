"""Learning-rate schedules from their specification."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from hpo.spec.training.optimizer import Schedule


def make_schedule(spec: Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Learning rate over the optimizer steps of a whole trial, warm-up first."""
    warmup = warmup_steps(spec, total_steps)
    name = "constant_with_warmup" if spec.type == "constant" else spec.type
    schedule: LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps
    )
    return schedule


def warmup_steps(spec: Schedule, total_steps: int) -> int:
    """Optimizer steps of warm-up, given as steps or as a ratio (rounded up)."""
    if spec.warmup_ratio is not None:
        return math.ceil(spec.warmup_ratio * total_steps)
    return spec.warmup_steps or 0
