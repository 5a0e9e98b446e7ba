"""Parameter groups: each with its own weight decay and peak learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod
from workers.trial.failures import InvalidTrial
from workers.trial.optimizer.layers import DecoderLayers

Named = tuple[str, nn.Parameter]
Group = dict[str, Any]

RATE_FACTOR = "rate_factor"
"""Key of a group's learning rate as a multiple of the configured one."""


class Grouping:
    """The rules by which a trial's parameters are grouped.

    Weight decay is on matrices only. The learning rate falls from layer to
    layer (`layer_decay`, ELECTRA, arXiv:2003.10555): the output layer and the
    final norm have the peak rate, the topmost decoder layer one factor less,
    the embeddings the least; an adapter has the rate of the layer it sits in.
    LoRA's B matrices have `plus_ratio` times the rate (arXiv:2402.12354).
    """

    def __init__(self, config: TrainingConfig, trainable: Sequence[Named]) -> None:
        """Raise InvalidTrial where `layer_decay` is below 1 and no layers are found."""
        self._spec = config.optimizer
        self._layers = DecoderLayers.among(name for name, _ in trainable)
        self._plus_ratio = (
            config.method.plus_ratio if isinstance(config.method, LoraMethod) else 1.0
        )
        if self._spec.layer_decay < 1 and self._layers is None:
            raise InvalidTrial(
                f"training.optimizer.layer_decay: given {self._spec.layer_decay:g}; allowed: 1 "
                "for a model whose parameters' names do not show one numbered list of layers"
            )

    def groups(self, named: Iterable[Named], **extra: Any) -> list[Group]:
        """Groups of torch's form, few of them and in the order of `named`."""
        groups: dict[tuple[float, float], Group] = {}
        for name, parameter in named:
            factor = self.rate_factor(name)
            decay = self._spec.weight_decay if parameter.ndim >= 2 else 0.0
            group = groups.setdefault((factor, decay), self._group(factor, decay, extra))
            group["params"].append(parameter)
        return list(groups.values())

    def rate_factor(self, name: str) -> float:
        """A parameter's learning rate as a multiple of the configured one."""
        factor = self._plus_ratio if is_b_matrix(name) else 1.0
        if self._layers is not None:
            factor *= self._spec.layer_decay ** self._layers.below_output(name)
        return factor

    def _group(self, factor: float, decay: float, extra: dict[str, Any]) -> Group:
        rate = factor * self._spec.learning_rate
        return {"params": [], "lr": rate, "weight_decay": decay, RATE_FACTOR: factor, **extra}


def is_b_matrix(name: str) -> bool:
    """Whether a parameter is the B matrix of a linear layer's or an embedding's adapter."""
    return "lora_B" in name or "lora_embedding_B" in name


def peak_rate(optimizer: Optimizer) -> float:
    """The current learning rate of a group whose factor is 1, to report.

    It is calculated where layer-wise decay and LoRA+ leave no such group.
    """
    group = min(optimizer.param_groups, key=lambda group: abs(group[RATE_FACTOR] - 1))
    rate: float = group["lr"] / group[RATE_FACTOR]
    return rate
