"""Optimizers, and the learning rate over a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    NotBoolean,
    PositiveFloat,
    PositiveInt,
    Probability,
    Strict,
    broken_rule,
)

Share = Annotated[float, Field(ge=0, le=1), NotBoolean]
PositiveShare = Annotated[float, Field(gt=0, le=1), NotBoolean]


class _Common(Strict):
    """What every optimizer has."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, on matrices only: biases and norms are spared."""
    beta1: Probability = 0.9
    """Decay of AdamW's first moment."""
    beta2: Probability = 0.999
    """Decay of AdamW's second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to AdamW's denominator."""
    layer_decay: PositiveShare = 1.0
    """Each layer's learning rate as a multiple of the one above it, the output
    layer's being the peak and the embeddings' the lowest (arXiv:2003.10555)."""


class AdamW(_Common):
    """AdamW, decoupled weight decay (arXiv:1711.05101), with a fused kernel."""

    type: Literal["adamw"] = "adamw"
    offload: Share = 0.0
    """Share of the moments that is kept, and stepped, in host memory (a GPU)."""


class BitsAndBytesAdamW(_Common):
    """AdamW of bitsandbytes: paged to host memory, in 8 bits (arXiv:2110.02861), or both."""

    type: Literal["paged-adamw", "adamw-8bit", "paged-adamw-8bit"]


class Muon(_Common):
    """Muon on the hidden matrices, AdamW on all else (kellerjordan.github.io/posts/muon)."""

    type: Literal["muon"]
    momentum: Probability = 0.95
    """Momentum of the matrices' gradients."""
    nesterov: bool = True
    """Look one step ahead."""
    newton_schulz_steps: Annotated[int, Field(gt=0, lt=100), NotBoolean] = 5
    """Iterations that make an update orthogonal."""
    adjustment: Literal["match-rms-adamw", "original"] = "match-rms-adamw"
    """How a matrix's shape enters its learning rate: so that one rate serves
    Muon and AdamW (arXiv:2502.16982), or as first published."""


def _adamw_by_default(given: Any) -> Any:
    return {"type": "adamw", **given} if isinstance(given, Mapping) else given


Optimizer = Annotated[
    Annotated[AdamW | BitsAndBytesAdamW | Muon, Field(discriminator="type")],
    BeforeValidator(_adamw_by_default),
]


class Schedule(Strict):
    """Learning-rate schedule over the optimizer steps of a whole trial."""

    type: Literal["linear", "cosine", "cosine-restarts", "constant", "wsd"] = "linear"
    """Shape after the warm-up: linear or cosine decay to zero, cosine with hard
    restarts (arXiv:1608.03983), none, or stable and then a decay (arXiv:2404.06395)."""
    warmup_steps: NonNegativeInt | None = None
    """Optimizer steps of linear warm-up."""
    warmup_ratio: Probability | None = None
    """Warm-up as a share of all optimizer steps."""
    cycles: PositiveInt | None = None
    """Cosine waves of `cosine-restarts`; one by default."""
    decay_ratio: PositiveShare | None = None
    """Share of all optimizer steps in which `wsd` decays linearly to zero; 0.1 by default."""

    @model_validator(mode="after")
    def one_warmup(self) -> Schedule:
        """Warm-up is given as steps or as a ratio, not both."""
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps or warmup_ratio, not both")
        return self

    @model_validator(mode="after")
    def of_the_type(self) -> Schedule:
        """What only one shape has is given for that shape alone."""
        for field, kind in (("cycles", "cosine-restarts"), ("decay_ratio", "wsd")):
            value = getattr(self, field)
            if value is not None and self.type != kind:
                raise broken_rule(
                    field, f"{value} with {self.type}", f"only with type {kind}; leave it out"
                )
        if (self.warmup_ratio or 0) + (self.decay_ratio or 0) > 1:
            raise broken_rule(
                "decay_ratio", f"{self.decay_ratio}", "at most what the warm-up leaves"
            )
        return self
