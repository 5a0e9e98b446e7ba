"""Whole models as checkpoints that can be served: fully trained ones, merged ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from workers.trial.model.adapter import ADAPTER, adapted_layers, magnitude_of
from workers.trial.model.targets import is_transposed

NamedWeights = Iterable[tuple[str, torch.Tensor]]


def save_model(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write weights in `dtype` with the base checkpoint's names, and configuration.

    `PreTrainedModel.save_pretrained` would state the training precision in
    `config.json`, and refuses some generation settings that hubs ship.
    """
    weights = model.state_dict(keep_vars=True).items()
    _save(model, _served(model, weights, dtype, lambda _, weight: weight), directory, dtype)


def save_merged(
    adapted: PreTrainedModel, plain: PreTrainedModel, directory: Path, dtype: torch.dtype
) -> None:
    """Write the model that an adapter makes of its base, as `save_model` does.

    Nothing is merged in place: one layer's weight at a time is copied on the
    device. The base's weights are those of `plain`, which is `adapted` itself
    unless that holds them in 4 bits; it is merged in the type it is served in.
    """
    layers = {f"{name}.weight": layer for name, layer in adapted_layers(adapted)}
    bare = _bare(adapted) if adapted is plain else plain.state_dict(keep_vars=True).items()

    def merge(name: str, weight: torch.Tensor) -> torch.Tensor:
        return merged_weight(layers[name], weight.to(dtype)) if name in layers else weight

    _save(plain, _served(plain, bare, dtype, merge), directory, dtype)


@torch.no_grad()
def merged_weight(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """A layer's weight and its adapter in one, in float32, of the weight's shape.

    LoRA (arXiv:2106.09685): W + scale · BA. DoRA (arXiv:2402.09353, equation
    5): the rows of that sum, one for each output, scaled to the magnitudes.
    """
    down, up = layer.lora_A[ADAPTER].weight.float(), layer.lora_B[ADAPTER].weight.float()
    transposed = is_transposed(layer.get_base_layer())
    rows: torch.Tensor = weight.T if transposed else weight
    rows = rows.float() + layer.scaling[ADAPTER] * (up @ down)
    magnitude = magnitude_of(layer)
    if magnitude is not None:
        # Training divides by norms in the magnitudes' type, too.
        norms = rows.norm(dim=1).to(magnitude.dtype)
        rows *= (magnitude / norms).float()[:, None]
    return rows.T if transposed else rows


def _bare(adapted: PreTrainedModel) -> NamedWeights:
    """The base's weights within an adapted model, by their names in the bare model."""
    layers = [f"{name}." for name, _ in adapted_layers(adapted)]
    for name, weight in adapted.state_dict(keep_vars=True).items():
        owner = next((layer for layer in layers if name.startswith(layer)), "")
        inner = name.removeprefix(owner)
        if not owner:
            yield name, weight
        elif inner.startswith("base_layer."):
            yield owner + inner.removeprefix("base_layer."), weight


def _served(
    model: PreTrainedModel,
    weights: NamedWeights,
    dtype: torch.dtype,
    change: Callable[[str, torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Changed weights in host memory, floating-point ones in `dtype`, ties kept as ties."""
    ignored = set(model._keys_to_ignore_on_save or ())
    served: dict[int, torch.Tensor] = {}
    named = {}
    for name, weight in weights:
        if id(weight) not in served:
            target = dtype if weight.is_floating_point() else weight.dtype
            served[id(weight)] = change(name, weight.detach()).to("cpu", target).contiguous()
        if name not in ignored:
            named[name] = served[id(weight)]
    return named


def _save(
    model: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    directory: Path,
    dtype: torch.dtype,
) -> None:
    weights = remove_tied_weights_from_state_dict(weights, model)
    weights = revert_weight_conversion(model, weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    if model.generation_config is not None:
        settings = model.generation_config.to_json_string()
        (directory / "generation_config.json").write_text(settings)
