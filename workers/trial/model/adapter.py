"""LoRA adapters on a frozen base, through peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hpo.spec.training.method import LoraMethod
from workers.trial.failures import InvalidTrial


def attach_adapter(base: PreTrainedModel, method: LoraMethod, seed: int) -> Any:
    """Put a fresh adapter into `base` and return peft's wrapper around it.

    Adapter weights are float32 whatever the base is. Their initialisation
    depends on `seed` alone, and the global random state is left as it was.
    Raises InvalidTrial when a target is not a linear layer of the model.
    """
    _check_targets(base, method)
    alpha = method.scale_alpha
    config = LoraConfig(
        r=method.rank,
        # peft and vLLM declare a whole number; both calculate with any.
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,
        lora_dropout=method.dropout,
        target_modules=method.target_modules,
        task_type="CAUSAL_LM",
    )
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return get_peft_model(base, config)


def save_adapter(wrapped: Any, directory: Path, dtype: torch.dtype) -> None:
    """Write the adapter in peft's format, its weights in `dtype`."""
    weights = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    served = {name: weight.to("cpu", dtype).contiguous() for name, weight in weights.items()}
    save_file(served, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = wrapped.peft_config["default"]
    trained_as = config.inference_mode
    config.inference_mode = True
    try:
        config.save_pretrained(directory)
    finally:
        config.inference_mode = trained_as


def _check_targets(base: PreTrainedModel, method: LoraMethod) -> None:
    """Every target must name linear layers that a served adapter may change."""
    if isinstance(method.target_modules, str):
        return
    for target in method.target_modules:
        layers = [
            module
            for name, module in base.named_modules()
            if name == target or name.endswith(f".{target}")
        ]
        if not layers or not all(_is_linear(layer) for layer in layers):
            raise _refused_target(target, base)
        if _output_layer(base) in layers:
            raise _refused_target(target, base)


def _refused_target(target: str, base: PreTrainedModel) -> InvalidTrial:
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
