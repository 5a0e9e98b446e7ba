"""Loading a base model so that nothing is missing without a word."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from hpo.spec.errors import InputError

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
"""What transformers raises for folders that it cannot make a model of."""


def load_model(path: str, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model in a folder or of a hub name, on the CPU.

    `options` go to `from_pretrained`. Raises InputError when it is missing,
    broken, of an unknown kind, or lacks weights (transformers would make those up).
    """
    rooted = path.startswith(("/", ".", "~")) or path.count("/") > 1
    if rooted and not Path(path).is_dir():
        raise _refusal(path, "no such folder")
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, **options
        )
    except UNREADABLE as error:
        raise _refusal(path, _one_line(error)) from error
    model: PreTrainedModel = loaded[0]
    _check_complete(path, loaded[1])
    return model


def _check_complete(path: str, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise _refusal(path, f"{len(missing)} weights are missing, {missing[0]} first")
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        raise _refusal(path, f"{len(mismatched)} weights of another shape, {mismatched[0]} first")


def _refusal(path: str, reason: str) -> InputError:
    return InputError(
        f"model.path: given {path!r} ({reason}); allowed: a folder with config.json and "
        "safetensors weights of a causal language model, or a hub name in reach"
    )


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 300) or type(error).__name__
