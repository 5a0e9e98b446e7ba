"""Which weights are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpo.spec.base import NotBoolean, PositiveFloat, PositiveInt, Probability, Strict, broken_rule

DEFAULT_ALPHA = 32.0


class FullMethod(Strict):
    """Every weight of the model is trained."""

    type: Literal["full"] = "full"


class LoraMethod(Strict):
    """Low-rank adapters are trained, the base stays frozen (arXiv:2106.09685)."""

    type: Literal["lora"]
    rank: PositiveInt = 16
    """Rank of the adapter matrices."""
    alpha: PositiveFloat | None = None
    """The adapter's output is scaled by alpha / rank; 32 where neither this nor
    alpha_ratio is given."""
    alpha_ratio: PositiveFloat | None = None
    """Alpha as a multiple of the rank, in place of alpha."""
    dropout: Probability = 0.0
    """Probability of dropping an input of the adapter."""
    target_modules: (
        Literal["all-linear", "attention"] | Annotated[list[str], Field(min_length=1)]
    ) = "all-linear"
    """Which linear layers get an adapter: all but the output layer, those of the
    attention, or the layers of these names."""
    bias: Literal["none", "lora_only", "all"] = "none"
    """Which biases are trained as well: none, those of the layers with an adapter, all."""
    rslora: bool = False
    """Scale by alpha / √rank (arXiv:2312.03732)."""
    dora: bool = False
    """Train magnitude and direction apart (arXiv:2402.09353)."""
    plus_ratio: Annotated[float, Field(ge=1), NotBoolean] = 1.0
    """Learning rate of the B matrices as a multiple of the A matrices' (LoRA+,
    arXiv:2402.12354)."""
    base: Literal["model", "4bit"] = "model"
    """How the frozen base is kept: in `model.dtype`, or in 4-bit NormalFloat
    (QLoRA, arXiv:2305.14314; a GPU and bitsandbytes)."""

    @model_validator(mode="after")
    def one_alpha(self) -> LoraMethod:
        """Alpha is given as a number or as a ratio, not both."""
        if self.alpha is not None and self.alpha_ratio is not None:
            raise broken_rule(
                "alpha_ratio", f"{self.alpha_ratio:g}", "alpha or alpha_ratio, not both"
            )
        return self

    @model_validator(mode="after")
    def merged_base(self) -> LoraMethod:
        """What cannot be served as an adapter is merged, into weights that are whole."""
        if self.base == "4bit" and (self.dora or self.bias != "none"):
            raise broken_rule(
                "base",
                "'4bit' with DoRA or trained biases",
                "model, as such adapters are merged into the base to be scored",
            )
        return self

    @property
    def served_as_adapter(self) -> bool:
        """Whether vLLM takes such an adapter as it is; else it is merged to be scored.

        vLLM's `PEFTHelper` refuses DoRA and trained biases; it knows rsLoRA.
        """
        return not self.dora and self.bias == "none"

    @property
    def scale_alpha(self) -> float:
        """Alpha, however it was given."""
        if self.alpha_ratio is not None:
            return self.alpha_ratio * self.rank
        return DEFAULT_ALPHA if self.alpha is None else self.alpha


Method = Annotated[FullMethod | LoraMethod, Field(discriminator="type")]
