"""What keeps a trial from learning its examples by heart."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpo.spec.base import NonNegativeFloat, NotBoolean, PositiveFloat, Probability, Strict

Decay = Annotated[float, Field(gt=0, lt=1), NotBoolean]


class RDrop(Strict):
    """Two passes with different dropout, and the divergence between them (arXiv:2106.14448)."""

    alpha: PositiveFloat
    """Weight of the symmetric KL divergence."""


class Ema(Strict):
    """Exponential moving average of the weights, which is what is scored and exported."""

    decay: Decay = 0.999
    """Share of the average that a step keeps."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs before the average begins, at the weights of that time."""


class GradientNoise(Strict):
    """Normal noise on the gradient, of variance scale / (1 + step)^decay (arXiv:1511.06807)."""

    scale: PositiveFloat
    """Variance at the first step."""
    decay: NonNegativeFloat = 0.55
    """How fast the variance falls with the steps; 0 keeps it."""


class Neftune(Strict):
    """Uniform noise on the embeddings in training (arXiv:2310.05914)."""

    alpha: PositiveFloat
    """Noise is drawn from ±alpha / √(tokens x hidden size)."""


class CodeLoss(Strict):
    """An auxiliary loss that separates code blocks from prose. The definition is ours.

    The hidden states of each example are told apart as within code fences or
    outside of them, by their likeness to the mean of either kind.
    """

    weight: PositiveFloat
    """Weight beside the cross-entropy."""


class Regularisation(Strict):
    """Regularisers; all off by default."""

    label_smoothing: Probability = 0.0
    """Share of the probability that is spread over the whole vocabulary (arXiv:1512.00567)."""
    rdrop: RDrop | None = None
    """R-Drop."""
    ema: Ema | None = None
    """Averaged weights."""
    gradient_noise: GradientNoise | None = None
    """Noise on the gradient."""
    neftune: Neftune | None = None
    """Noise on the embeddings."""
    code_loss: CodeLoss | None = None
    """Auxiliary code-block loss."""
