"""A fully trained model as a checkpoint that can be served."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict


def save_model(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write weights in `dtype` with the base checkpoint's names, and configuration.

    `PreTrainedModel.save_pretrained` would state the training precision in
    `config.json`, and refuses some generation settings that hubs ship.
    """
    weights = remove_tied_weights_from_state_dict(_served_weights(model, dtype), model)
    weights = revert_weight_conversion(model, weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    if model.generation_config is not None:
        settings = model.generation_config.to_json_string()
        (directory / "generation_config.json").write_text(settings)


def _served_weights(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """State in host memory, floating-point tensors in `dtype`, ties kept as ties."""
    ignored = set(model._keys_to_ignore_on_save or ())
    served: dict[int, torch.Tensor] = {}
    weights = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) not in served:
            target = dtype if weight.is_floating_point() else weight.dtype
            served[id(weight)] = weight.detach().to("cpu", target).contiguous()
        if name not in ignored:
            weights[name] = served[id(weight)]
    return weights
