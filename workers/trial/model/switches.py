"""Options of a trial that hold for the whole process, or for the whole model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from hpo.spec.training.compute import Compute
from workers.trial.failures import InvalidTrial


@contextmanager
def switched(compute: Compute) -> Iterator[None]:
    """The process as a trial wants it; what it was before after it."""
    products = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    convolutions = torch.backends.cudnn.deterministic
    try:
        torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
        torch.use_deterministic_algorithms(compute.deterministic)
        torch.backends.cudnn.deterministic = compute.deterministic
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic = convolutions


def allow_deterministic(device: torch.device) -> None:
    """Let a GPU's matrix products be deterministic; before the first of them.

    cuBLAS reads its workspace from the environment when it starts
    (docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def set_attention(model: PreTrainedModel, compute: Compute) -> None:
    """Compute attention as `compute.attention` says; the model's structure brings it back.

    Raises InvalidTrial where the model cannot: transformers would go on with
    another implementation.
    """
    wanted = compute.attention
    if wanted == "auto":
        return
    try:
        model.set_attn_implementation(wanted)
    except (ImportError, ValueError) as error:
        raise _refused_attention(model, wanted, str(error).partition("\n")[0]) from error
    if model.config._attn_implementation != wanted:
        raise _refused_attention(model, wanted, "the model does not support it")


def set_checkpointing(model: PreTrainedModel, compute: Compute) -> None:
    """Recompute activations in the backward pass where `compute` says so.

    Random states are kept for the second pass, so that dropout is the same.
    Raises InvalidTrial where the model cannot.
    """
    if not compute.gradient_checkpointing:
        return
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidTrial(
            "training.compute.gradient_checkpointing: given true; allowed: false, as "
            f"{type(model).__name__} does not support it"
        ) from error


def _refused_attention(model: PreTrainedModel, wanted: str, reason: str) -> InvalidTrial:
    return InvalidTrial(
        f"training.compute.attention: given {wanted!r}; allowed: auto, which is "
        f"{model.config._attn_implementation} for {type(model).__name__} ({reason})"
    )
