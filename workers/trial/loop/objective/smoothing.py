"""Label smoothing (arXiv:1512.00567, section 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import log_softmax

from workers.data.batches.loss import logits_of


def smoothed_losses(
    log_probabilities: torch.Tensor, targets: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smoothed and plain cross-entropies in nats, both (tokens,), the plain one detached.

    (1 - ε)·(-log p(target)) + ε·(mean over the vocabulary of -log p), the
    target's own share included, of log-probabilities (tokens, vocabulary).
    """
    plain = -log_probabilities.gather(1, targets[:, None]).squeeze(1)
    if smoothing == 0:
        return plain, plain.detach()
    return (1 - smoothing) * plain - smoothing * log_probabilities.mean(1), plain.detach()


def smoothed_cross_entropies(
    smoothing: float, causal: Any, states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`smoothed_losses` from states (tokens, hidden size)."""
    return smoothed_losses(log_softmax(logits_of(causal, states), 1), targets, smoothing)
