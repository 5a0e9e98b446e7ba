"""Optimizer and learning-rate schedule from their specification."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from hpo.spec import training


def make_optimizer(
    spec: training.AdamW, trainable: Sequence[tuple[str, nn.Parameter]]
) -> Optimizer:
    """AdamW with weight decay on matrices only; norms and biases are spared.

    The fused kernel works element by element, so it is deterministic, and it
    allocates nothing beside the moments.
    """
    matrices = [parameter for _, parameter in trainable if parameter.ndim >= 2]
    others = [parameter for _, parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": spec.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=spec.learning_rate,
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        fused=True,
    )


def make_schedule(spec: training.Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Learning rate over the optimizer steps of a whole trial, warm-up first."""
    warmup = warmup_steps(spec, total_steps)
    name = "constant_with_warmup" if spec.type == "constant" else spec.type
    schedule: LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps
    )
    return schedule


def warmup_steps(spec: training.Schedule, total_steps: int) -> int:
    """Optimizer steps of warm-up, given as steps or as a ratio (rounded up)."""
    if spec.warmup_ratio is not None:
        return math.ceil(spec.warmup_ratio * total_steps)
    return spec.warmup_steps or 0


def total_steps(config: training.TrainingConfig, examples: int) -> int:
    """Optimizer steps of a trial: the smallest of its limits, in whole batches."""
    batch = config.effective_batch_size
    limits = [
        config.max_batches,
        None if config.max_examples is None else math.ceil(config.max_examples / batch),
        None if config.epochs is None else math.ceil(config.epochs * examples / batch),
    ]
    return min(limit for limit in limits if limit is not None)
