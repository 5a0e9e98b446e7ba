"""The training section: what one trial trains with.

A `TrainingConfig` holds plain values only. Ranges and choices stand in the
study file and are replaced by sampled values before a config is built
(`hpo.spec.space`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Strict,
    TwoOrMore,
    broken_rule,
)


class FullMethod(Strict):
    """Every weight of the model is trained."""

    type: Literal["full"] = "full"


class LoraMethod(Strict):
    """Low-rank adapters are trained, the base stays frozen (arXiv:2106.09685)."""

    type: Literal["lora"]
    rank: PositiveInt = 16
    """Rank of the adapter matrices."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: Probability = 0.0
    """Probability of dropping an input of the adapter."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the linear layers that get an adapter."""


Method = Annotated[FullMethod | LoraMethod, Field(discriminator="type")]


class AdamW(Strict):
    """AdamW, decoupled weight decay (arXiv:1711.05101)."""

    type: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, on matrices only: biases and norms are spared."""
    beta1: Probability = 0.9
    """Decay of the first moment."""
    beta2: Probability = 0.999
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the denominator."""


class Schedule(Strict):
    """Learning-rate schedule over the optimizer steps of a whole trial."""

    type: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the decay after the warm-up."""
    warmup_steps: NonNegativeInt | None = None
    """Optimizer steps of linear warm-up."""
    warmup_ratio: Probability | None = None
    """Warm-up as a share of all optimizer steps."""

    @model_validator(mode="after")
    def one_warmup(self) -> Schedule:
        """Warm-up is given as steps or as a ratio, not both."""
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps or warmup_ratio, not both")
        return self


class TrainingConfig(Strict):
    """Everything one trial trains with, all values plain."""

    method: Method = FullMethod()
    """Full fine-tuning or LoRA."""
    optimizer: AdamW
    """Optimizer and its parameters."""
    effective_batch_size: PositiveInt
    """Examples per optimizer step, whatever the micro-batch."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    max_batches: PositiveInt | None = None
    """Most optimizer steps of a trial."""
    max_examples: PositiveInt | None = None
    """Most training examples a trial sees, rounded up to whole batches."""
    epochs: PositiveFloat | None = None
    """Most passes over the training set."""
    max_length: TwoOrMore = 1024
    """Tokens per example; longer ones are cut at the end."""
    completion: str | None = None
    """Field of the training set that is trained on; by default the one that the
    data section names. Choices may also stand there: `data.train.completion`."""
    quality_weighting: bool = False
    """Weigh each example's loss by its quality score, from `data.quality`."""
    gradient_clipping: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""
    seed: NonNegativeInt = 0
    """Seeds data order, initialisation and dropout."""

    @model_validator(mode="after")
    def some_length(self) -> TrainingConfig:
        """A trial must end somewhere."""
        if self.max_batches is None and self.max_examples is None and self.epochs is None:
            raise broken_rule("", "no length", "at least one of max_batches, max_examples, epochs")
        return self
