"""Gradient noise (arXiv:1511.06807)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hpo.spec.training.regularisation import GradientNoise


@torch.no_grad()
def add_gradient_noise(gradients: Sequence[torch.Tensor], spec: GradientNoise, step: int) -> None:
    """Add normal noise of variance scale / (1 + step)^decay to gradients, in place.

    `step` counts optimizer steps from 0. The noise comes from the global
    generator of the gradients' device, in the order of the gradients.
    """
    deviation = math.sqrt(spec.scale / (1 + step) ** spec.decay)
    for gradient in gradients:
        gradient.add_(torch.randn_like(gradient), alpha=deviation)
