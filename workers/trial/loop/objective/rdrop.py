"""R-Drop: two passes with different dropout that must agree (arXiv:2106.14448)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import log_softmax

from workers.data.batches.loss import logits_of
from workers.trial.loop.objective.smoothing import smoothed_losses

LOGITS = 4
"""Tensors of the size of the logits that stay for the backward pass, about."""


def rdrop_losses(
    alpha: float,
    smoothing: float,
    causal: Any,
    one: torch.Tensor,
    other: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses to minimise, and plain ones, of tokens whose states two passes gave.

    Half of the paper's loss, for gradients of the size of plain training; its
    minimum is the same and so is the meaning of alpha:
    ½·[NLL₁ + NLL₂ + α·½·(KL(P₁‖P₂) + KL(P₂‖P₁))]. (Code that halves the
    likelihoods alone means half of this alpha by its own.) Gradients flow into
    both sides of the divergence. Label smoothing acts on both likelihoods. The
    plain loss is the mean of both passes', detached. States are (tokens, hidden
    size), losses float32 (tokens,), in nats.
    """
    first = log_softmax(logits_of(causal, one), 1)
    second = log_softmax(logits_of(causal, other), 1)
    # KL(P₁‖P₂) + KL(P₂‖P₁), as one sum.
    divergence = ((first.exp() - second.exp()) * (first - second)).sum(1)
    first_loss, first_plain = smoothed_losses(first, targets, smoothing)
    second_loss, second_plain = smoothed_losses(second, targets, smoothing)
    losses = (first_loss + second_loss + 0.5 * alpha * divergence) / 2
    return losses, (first_plain + second_plain) / 2
