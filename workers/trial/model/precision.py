"""The types that weights are held in and computed with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from hpo.spec.training.compute import Compute

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""Types of `model.dtype`."""


@dataclass(frozen=True)
class Precision:
    """Types of one trial."""

    trained: torch.dtype
    """Of weights that are trained."""
    frozen: torch.dtype
    """Of a base that is not."""
    autocast: torch.dtype | None
    """Of products; None for that of the weights."""

    @classmethod
    def of(cls, compute: Compute, served: torch.dtype) -> Precision:
        """What `compute.precision` means for a model that is served in `served`."""
        wanted = compute.precision
        if wanted == "auto":
            wanted = "fp32" if served is torch.float32 else "bf16"
        if wanted == "pure-bf16":
            return cls(torch.bfloat16, torch.bfloat16, None)
        if wanted == "fp32":
            return cls(torch.float32, torch.float32, None)
        autocast = torch.bfloat16 if wanted == "bf16" else torch.float16
        return cls(torch.float32, served, autocast)

    def beside_4bit(self) -> Precision:
        """The same where the base's matrices are in 4 bits.

        Their layers answer in the type they are asked in, which must go with
        autocast: bfloat16 and float16 do not.
        """
        if self.autocast in (None, self.frozen):
            return self
        return Precision(self.trained, torch.float32, self.autocast)


def freeze_in(model: nn.Module, dtype: torch.dtype, served: torch.dtype) -> None:
    """Have frozen weights of `dtype`, with the values that they have in `served`.

    A base that is held in float32 for full fine-tuning is rounded as one that
    was loaded in `served`, so that it is the same whatever else is searched.
    """

    def convert(parameter: nn.Parameter) -> nn.Parameter:
        if not parameter.is_floating_point() or parameter.dtype == dtype == served:
            return parameter
        values = parameter.detach().to(served).to(dtype)
        return nn.Parameter(values, requires_grad=False)

    replace_weights(model, convert)


def train_whole(model: nn.Module, dtype: torch.dtype) -> None:
    """Have all weights trainable: the model's own in float32, copies in another type."""
    if dtype is torch.float32:
        model.requires_grad_(True)
    else:
        replace_weights(model, lambda parameter: trainable_copy(parameter, dtype))


def trainable_copy(parameter: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    """A trainable parameter with memory of its own."""
    return nn.Parameter(parameter.detach().to(dtype, copy=True))


def replace_weights(model: nn.Module, convert: Callable[[nn.Parameter], nn.Parameter]) -> None:
    """Replace parameters by what `convert` makes of them, each once, keeping ties.

    The model's own parameters are not written; whoever holds its structure
    can bring them back.
    """
    converted: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) not in converted:
                converted[id(parameter)] = convert(parameter)
            if converted[id(parameter)] is not parameter:
                setattr(module, name, converted[id(parameter)])
