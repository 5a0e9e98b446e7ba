"""Which linear layers of a model get an adapter."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hpo.spec.training.method import LoraMethod
from workers.trial.failures import InvalidTrial

_ATTENTION = re.compile(r"Attention\d*$")
"""How transformers calls classes of attention, whatever the architecture."""


def target_modules(base: PreTrainedModel, method: LoraMethod) -> str | list[str]:
    """The targets as peft takes them.

    Raises InvalidTrial when one is not a linear layer that a served adapter
    may change.
    """
    if method.target_modules == "attention":
        return _attention(base)
    if isinstance(method.target_modules, str):
        return method.target_modules
    for target in method.target_modules:
        _check(base, target)
    return method.target_modules


def is_transposed(layer: nn.Module) -> bool:
    """Whether a linear layer's weights are (inputs, outputs) in a checkpoint, as GPT-2's are.

    In 4 bits they are turned round.
    """
    return issubclass(getattr(layer, "source_cls", type(layer)), Conv1D)


def takes_served_adapters(base: nn.Module) -> bool:
    """Whether vLLM can adapt the model's layers: it cannot where they are transposed."""
    return not any(is_transposed(module) for module in base.modules())


def _attention(base: PreTrainedModel) -> list[str]:
    """Linear layers within attention, by the last parts of their names.

    The attention's own name comes first: GPT-2 calls two layers `c_proj`, only
    one of which is in the attention.
    """
    found = {
        f"{name.rpartition('.')[2]}.{inner}"
        for name, module in base.named_modules()
        if _ATTENTION.search(type(module).__name__)
        for inner, layer in module.named_modules()
        if _is_linear(layer)
    }
    if not found:
        raise _refused("attention", base)
    return sorted(found)


def _check(base: PreTrainedModel, target: str) -> None:
    layers = [
        module
        for name, module in base.named_modules()
        if name == target or name.endswith(f".{target}")
    ]
    linear = bool(layers) and all(_is_linear(layer) for layer in layers)
    if not linear or _output_layer(base) in layers:
        raise _refused(target, base)


def _refused(target: str, base: PreTrainedModel) -> InvalidTrial:
    names = {
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if _is_linear(module) and module is not _output_layer(base)
    }
    return InvalidTrial(
        f"training.method.target_modules: given {target!r}; "
        f"allowed: all-linear or linear layers of {type(base).__name__}: {', '.join(sorted(names))}"
    )


def _output_layer(base: Any) -> Any:
    """The layer that makes logits, whose adapter could not be served."""
    return base.get_output_embeddings()


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))
