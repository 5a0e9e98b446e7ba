"""LoRA adapters on a frozen base, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hpo.spec.training.method import LoraMethod
from workers.trial.failures import InvalidTrial
from workers.trial.model.precision import trainable_copy
from workers.trial.model.targets import target_modules

ADAPTER = "default"
"""peft's name for the one adapter there is."""


def attach_adapter(
    base: PreTrainedModel, method: LoraMethod, seed: int, *, dtype: torch.dtype
) -> Any:
    """Put a fresh adapter into `base` and return peft's wrapper around it.

    What is trained is of `dtype` whatever the base is; trained biases are
    copies that stand in the base's place. The initialisation depends on `seed`
    alone, and the global random state is left as it was. Raises InvalidTrial
    for targets and biases that the model does not have.
    """
    alpha = method.scale_alpha
    config = LoraConfig(
        r=method.rank,
        # peft and vLLM declare a whole number; both calculate with any.
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,
        lora_dropout=method.dropout,
        target_modules=target_modules(base, method),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        use_rslora=method.rslora,
        use_dora=method.dora,
        task_type="CAUSAL_LM",
    )
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**64)
        wrapped = get_peft_model(base, config)
    for _, layer in adapted_layers(base):
        _prepare(layer, dtype)
    _train_biases(base, method, dtype)
    return wrapped


def adapted_layers(base: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with an adapter, by their names in the bare model."""
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def magnitude_of(layer: Any) -> torch.Tensor | None:
    """DoRA's trained magnitudes of shape (outputs,); None for plain LoRA."""
    if ADAPTER not in layer.lora_magnitude_vector:
        return None
    magnitude: torch.Tensor = layer.lora_magnitude_vector[ADAPTER].weight
    return magnitude


def save_adapter(wrapped: Any, directory: Path, dtype: torch.dtype) -> None:
    """Write the adapter in peft's format, its weights in `dtype`."""
    weights = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    served = {name: weight.to("cpu", dtype).contiguous() for name, weight in weights.items()}
    save_file(served, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = wrapped.peft_config[ADAPTER]
    trained_as = config.inference_mode
    config.inference_mode = True
    try:
        config.save_pretrained(directory)
    finally:
        config.inference_mode = trained_as


@torch.no_grad()
def _prepare(layer: Any, dtype: torch.dtype) -> None:
    """Have the adapter's weights in `dtype`, DoRA's magnitudes those of the base.

    peft rounds the magnitudes to the base's type, so that a trial would not
    begin at the base.
    """
    for name, parameter in layer.named_parameters():
        if not name.startswith("base_layer."):
            parameter.data = parameter.to(dtype)
    magnitude = magnitude_of(layer)
    if magnitude is not None:
        weight = dequantize_module_weight(layer.get_base_layer()).float()
        magnitude.copy_(weight.norm(dim=0 if layer.fan_in_fan_out else 1))


def _train_biases(base: PreTrainedModel, method: LoraMethod, dtype: torch.dtype) -> None:
    if method.bias == "none":
        return
    if method.bias == "all":
        owners = [module for module in base.modules() if not isinstance(module, LoraLayer)]
    else:
        owners = [layer.get_base_layer() for _, layer in adapted_layers(base)]
    owners = [owner for owner in owners if isinstance(getattr(owner, "bias", None), nn.Parameter)]
    if not owners:
        raise InvalidTrial(
            f"training.method.bias: given {method.bias!r}; allowed: none, as these layers of "
            f"{type(base).__name__} have no biases"
        )
    for owner in owners:
        owner.bias = trainable_copy(owner.get_parameter("bias"), dtype)
        weight = getattr(owner, "weight", None)
        if weight is not None and weight.ndim == 1:
            # A norm takes weight and bias of one type alone.
            owner.weight = trainable_copy(weight, dtype).requires_grad_(False)
