"""A transformers model that reads a vLLM model's tensors: one copy of the weights for both.

vLLM puts several of transformers' matrices on top of each other, and pads
embeddings; rows of the one are tensors of the other. Reloads fill vLLM's
tensors in place, so that views of them follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Views = Mapping[str, torch.Tensor]
"""vLLM's tensors under transformers' names, without second names of tied ones."""

_FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
ARCHITECTURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": _FUSED,
    "mistral": _FUSED,
    "qwen2": _FUSED,
}
"""By model type: which of transformers' modules vLLM has on top of each other, from above."""

_SAMPLES = 16


class NotPlain(Exception):
    """vLLM's tensors are not those of a transformers model; the message says where."""


def no_views_of(model_type: str) -> str | None:
    """Why vLLM's tensors of such a model cannot be read; None where they can."""
    if model_type in ARCHITECTURES:
        return None
    known = ", ".join(sorted(ARCHITECTURES))
    return f"how vLLM lays out the weights of a {model_type} model is not known ({known} are)"


@contextmanager
def plain_weights() -> Iterator[None]:
    """Inside, vLLM keeps its weights as they are wherever it makes packed ones of them.

    On a CPU it computes with packed weights and throws the others away, when it
    is built and at each reload: both belong in here. A reload outside of it
    fails, for the weights have no place any more. Elsewhere nothing changes.
    """
    # Where vLLM looks it up at each call.
    from vllm.model_executor.layers import utils

    pack = utils.dispatch_cpu_unquantized_gemm

    def pack_beside(layer: nn.Module, remove_weight: bool) -> None:
        pack(layer, remove_weight=False)

    utils.dispatch_cpu_unquantized_gemm = pack_beside
    try:
        yield
    finally:
        utils.dispatch_cpu_unquantized_gemm = pack


def views_of(engine: nn.Module, model: PreTrainedModel) -> Views:
    """The tensors of `engine`, vLLM's model, that are the parameters of `model`.

    Raises NotPlain where one is missing, left over, or of another shape or type.
    """
    if unknown := no_views_of(model.config.model_type):
        raise NotPlain(unknown)
    fused = ARCHITECTURES[model.config.model_type]
    wanted = dict(model.named_parameters())
    # vLLM wraps what an adapter may change.
    held = {name.replace(".base_layer.", "."): tensor for name, tensor in _tensors(engine)}
    views = {
        part: view
        for name, tensor in held.items()
        for part, view in _parts(name, tensor, fused, wanted)
    }
    if missing := sorted(wanted.keys() - views.keys()):
        raise NotPlain(f"vLLM has no {missing[0]}")
    return views


def put_views(model: PreTrainedModel, views: Views) -> None:
    """Make a model's parameters the views, all of them; its buffers stay as they are."""
    # Second names of tied parameters are missing: they follow.
    model.load_state_dict(dict(views), strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)


def require_equal(views: Views, model: PreTrainedModel) -> None:
    """Compare every view with the model that was read from the files.

    It finds out a layout that is not known. Raises NotPlain.
    """
    for name, parameter in model.named_parameters():
        if not torch.equal(views[name], parameter.to(views[name].device)):
            raise NotPlain(f"vLLM's {name} holds other values than the model's files")


def samples_of(views: Views) -> torch.Tensor:
    """A few values of every tensor, float32 on the CPU: other weights have others."""
    parts = [view.flatten() for view in views.values()]
    strides = (max(1, part.numel() // _SAMPLES) for part in parts)
    return torch.cat(
        [part[::step].float() for part, step in zip(parts, strides, strict=True)]
    ).cpu()


def _tensors(engine: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, parameter.data) for name, parameter in engine.named_parameters())


def _parts(
    name: str,
    tensor: torch.Tensor,
    fused: Mapping[str, tuple[str, ...]],
    wanted: Mapping[str, Any],
) -> Iterator[tuple[str, torch.Tensor]]:
    """One of vLLM's tensors as the parameters that it holds, from above."""
    module, _, leaf = name.rpartition(".")
    path, dot, last = module.rpartition(".")
    names = [f"{path}{dot}{part}.{leaf}" for part in fused.get(last, (last,))]
    if unknown := [part for part in names if part not in wanted]:
        raise NotPlain(f"vLLM's {name} holds {unknown[0]}, which transformers does not have")
    shapes = [wanted[part].shape for part in names]
    rows = [0, *accumulate(shape[0] for shape in shapes)]
    for part, shape, (start, end) in zip(names, shapes, pairwise(rows), strict=True):
        # vLLM pads embeddings with rows at the end.
        view = tensor[start:end]
        if view.shape != shape or tensor.dtype != wanted[part].dtype:
            raise NotPlain(
                f"vLLM keeps {name} as {tensor.dtype} {list(tensor.shape)}, "
                f"which does not hold {part} as {wanted[part].dtype} {list(shape)}"
            )
        yield part, view
