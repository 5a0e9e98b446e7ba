"""Optimizers from their specification."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer

from hpo.spec.training import optimizer as specs


def make_optimizer(spec: specs.AdamW, trainable: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
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
