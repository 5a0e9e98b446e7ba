"""A base in 4 bits, for LoRA alone (QLoRA, arXiv:2305.14314)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from hpo.spec.errors import InputError
from workers.trial.model.loading import load_model


def load_in_4bit(path: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model with its linear layers in double-quantised 4-bit NormalFloat, on `device`.

    What is not quantised has `dtype`. Raises InputError where bitsandbytes is
    missing, or the folder is.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "training.method.base: given '4bit', but the package bitsandbytes is not installed; "
            "allowed: model, or install bitsandbytes"
        )
    settings: Any = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = load_model(path, dtype, quantization_config=settings, device_map={"": device})
    for layer in _quantised_layers(model):
        # On a CPU, layers repack their weights in place when they are first evaluated.
        layer.support_avx512bf16_for_cpu = False
    return model


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Have the quantised layers multiply in `dtype`, with biases of that type.

    The biases are copies: the layers would convert the base's own in place.
    """
    for layer in _quantised_layers(model):
        layer.compute_dtype = dtype
        if layer.bias is not None:
            copy = layer.bias.detach().to(dtype, copy=True)
            layer.bias = nn.Parameter(copy, requires_grad=False)


def _quantised_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "compute_dtype")]
