"""The training section: everything one trial trains with.

A `TrainingConfig` holds plain values only. Ranges and choices stand in the
study file and are replaced by sampled values before a config is built
(`hpo.spec.space`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    TwoOrMore,
    broken_rule,
)
from hpo.spec.training.compute import Compute
from hpo.spec.training.contradictions import contradiction
from hpo.spec.training.features import Feature
from hpo.spec.training.method import FullMethod, Method
from hpo.spec.training.optimizer import Optimizer, Schedule
from hpo.spec.training.order import Order
from hpo.spec.training.regularisation import Regularisation


class FromEpoch(Strict):
    """Progressive start: the epoch, counted from 0, from which a feature is on.

    A feature that is not named is on from the start.
    """

    label_smoothing: NonNegativeFloat | None = None
    """Label smoothing."""
    rdrop: NonNegativeFloat | None = None
    """R-Drop."""
    ema: NonNegativeFloat | None = None
    """Averaged weights; the later of this and their own warm-up counts."""
    gradient_noise: NonNegativeFloat | None = None
    """Noise on the gradient."""
    neftune: NonNegativeFloat | None = None
    """Noise on the embeddings."""
    code_loss: NonNegativeFloat | None = None
    """Auxiliary code-block loss."""
    quality_weighting: NonNegativeFloat | None = None
    """Weighting by quality."""


class Seeds(Strict):
    """Seeds apart from each other; each is `training.seed` by default."""

    data: NonNegativeInt | None = None
    """Order of the examples."""
    initialisation: NonNegativeInt | None = None
    """Adapter matrices."""
    dropout: NonNegativeInt | None = None
    """Dropout and every noise."""


class TrainingConfig(Strict):
    """Everything one trial trains with, all values plain."""

    method: Method = FullMethod()
    """Full fine-tuning or LoRA."""
    optimizer: Optimizer
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
    """Tokens per example."""
    truncation: Literal["end", "drop"] = "end"
    """Examples beyond max_length are cut at the end, or left out."""
    padding: Literal["longest", "max-length"] = "longest"
    """Rows are padded to the longest of a micro-batch, or to max_length."""
    packing: bool = False
    """Put the examples of a step side by side in rows of max_length tokens; none
    sees another, and the loss is the same."""
    completion: str | None = None
    """Field of the training set that is trained on; by default the one that the
    data section names. Choices may also stand there: `data.train.completion`."""
    quality_weighting: bool = False
    """Weigh each example's loss by its quality score, from `data.quality`."""
    gradient_clipping: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""
    regularisation: Regularisation = Regularisation()
    """Regularisers."""
    order: Order = Order()
    """Order of the examples."""
    from_epoch: FromEpoch = FromEpoch()
    """Progressive start: features that are switched on later."""
    ablation: list[Feature] = Field(default=[])
    """Features that are switched off, whatever is given for them."""
    compute: Compute = Compute()
    """Precision, memory and speed."""
    seed: NonNegativeInt = 0
    """Seeds data order, initialisation and dropout."""
    seeds: Seeds = Seeds()
    """Seeds that differ from it."""

    def seed_of(self, purpose: Literal["data", "initialisation", "dropout"]) -> int:
        """The seed for one purpose: its own, or the one for all."""
        own: int | None = getattr(self.seeds, purpose)
        return self.seed if own is None else own

    @model_validator(mode="after")
    def some_length(self) -> TrainingConfig:
        """A trial must end somewhere."""
        if self.max_batches is None and self.max_examples is None and self.epochs is None:
            raise broken_rule("", "no length", "at least one of max_batches, max_examples, epochs")
        return self

    @model_validator(mode="after")
    def no_contradiction(self) -> TrainingConfig:
        """Options that exclude each other are not given together."""
        found = contradiction(self)
        if found is not None:
            raise broken_rule(found.path, found.given, found.allowed)
        return self
