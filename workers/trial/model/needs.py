"""What the trials of a study may ask of the base model, known before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod

Kind = Literal["full", "lora"]


@dataclass(frozen=True)
class ModelNeeds:
    """What a reusable model must be prepared for."""

    methods: frozenset[Kind]
    in_place: bool = True
    """Whether full fine-tuning may train float32 weights, which are the base's own."""
    plain: bool = True
    """Whether a trial may work on the base as it is, not in 4 bits."""
    four_bit: bool = False
    """Whether a LoRA trial may ask for the base in 4 bits."""
    merged: bool = False
    """Whether adapters are merged into the base to be scored. One adapter that
    cannot be served by itself is enough: scores of merged weights and of adapters
    differ by rounding, and trials that are compared must be served in one way."""
    compiled: bool = False
    """Whether a trial may ask for compiled layers."""
    deterministic: bool = False
    """Whether a trial may ask for deterministic algorithms."""

    @classmethod
    def of(cls, configs: Iterable[TrainingConfig]) -> Self:
        """The needs of a search space, from configurations that take each option once.

        Options are combined freely: two that no given configuration has
        together may still meet in a trial.
        """
        every = list(configs)
        adapters = [one.method for one in every if isinstance(one.method, LoraMethod)]
        methods = {one.method.type for one in every}
        return cls(
            methods=frozenset(methods),
            in_place=any(one.compute.precision != "pure-bf16" for one in every),
            plain="full" in methods or any(one.base == "model" for one in adapters),
            four_bit=any(one.base == "4bit" for one in adapters),
            merged=any(not one.served_as_adapter for one in adapters),
            compiled=any(one.compute.compile for one in every),
            deterministic=any(one.compute.deterministic for one in every),
        )

    @property
    def trains_base(self) -> bool:
        """Whether the base's own weights may be written."""
        return "full" in self.methods and self.in_place
