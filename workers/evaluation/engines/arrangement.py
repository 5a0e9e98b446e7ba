"""How vLLM and transformers share the evaluation device's memory: chosen once, with a reason.

`views` costs nothing: one copy of the weights, and nothing moves. Where it is
not possible, two copies stand side by side if there is room (`together`).
Else vLLM gives its memory back while the loss is computed, by dropping its
weights (`reload`): that takes a twentieth of a second, and it gets new ones
for the next checkpoint anyway, from transformers' copy on the same device.
Laying them aside in host memory (`sleep`) takes seconds, and host memory, and
saves a copy from device to device: it is there to be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from hpo.spec.errors import InputError
from hpo.spec.study import EvaluationSpec
from workers.data.batches.loss import LOGITS_PER_CHUNK
from workers.evaluation.engines.views import no_views_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Name = Literal["views", "together", "sleep", "reload"]
Asked = Literal["auto", "views", "together", "sleep", "reload"]

GIB = 1 << 30

_VLLM_BESIDE_WEIGHTS = 3 * GIB // 2
"""What vLLM takes besides weights and cache: CUDA's context, graphs and activations."""
_LOGIT_BYTES = 8
"""Of a logit, besides the one in the model's type: in float32, before and after the softmax."""

_REASONS: dict[Name, str] = {
    "views": "transformers reads vLLM's tensors, so nothing is loaded or handed over twice",
    "together": "vLLM and transformers have a copy of the weights each",
    "sleep": "vLLM lays its weights aside in host memory while the loss is computed",
    "reload": "vLLM drops its weights while the loss is computed, and takes them anew",
}
_ON_CPU: dict[Name, str] = {
    "views": "; on a CPU vLLM computes with a packed copy of its own besides",
    "together": "",
    "sleep": "; on a CPU that frees nothing",
    "reload": "; on a CPU that frees nothing",
}


@dataclass(frozen=True)
class Arrangement:
    """A way to share the memory, and why it was chosen."""

    name: Name
    reason: str
    """For people."""


def choose_arrangement(
    asked: Asked,
    *,
    model_type: str,
    device: str,
    generation: bool,
    weights_bytes: int,
    free_bytes: int | None,
    loss_bytes: int = 0,
    not_plain: str | None = None,
) -> Arrangement:
    """Choose for a model on a device of type `cpu` or `cuda`, or take what is asked for.

    `weights_bytes` is one copy of the weights, `loss_bytes` what a forward
    pass of the loss takes besides, `free_bytes` what is free beside vLLM's
    share of a GPU (None on a CPU). `not_plain` says why vLLM's tensors cannot
    be read, where that was found out when it was built.

    Raises InputError for a wish that cannot be, and for a model whose copy
    has no room beside vLLM's share.
    """
    if not generation:
        return _without_vllm(asked)
    no_views = not_plain or no_views_of(model_type)
    if asked == "views" and no_views is not None:
        raise _impossible(asked, no_views, "auto, together, sleep or reload")
    if asked == "views" or (asked == "auto" and no_views is None):
        return Arrangement("views", _reason("views", asked, on_cpu=device == "cpu"))
    if free_bytes is not None and weights_bytes > free_bytes:
        raise _no_room(asked, weights_bytes, free_bytes)
    if asked != "auto":
        return Arrangement(asked, _reason(asked, asked, on_cpu=device == "cpu"))
    assert no_views is not None
    return _two_copies(no_views, weights_bytes + loss_bytes, free_bytes)


def free_beside_vllm(evaluation: EvaluationSpec, weights_bytes: int) -> int:
    """Bytes of the GPU that are free now and will be when vLLM has taken its share."""
    free, total = torch.cuda.mem_get_info()
    if evaluation.kv_cache_mib is None:
        return free - int(evaluation.gpu_memory_fraction * total)
    # A cache of a stated size takes the place of the fraction.
    return free - weights_bytes - (evaluation.kv_cache_mib << 20) - _VLLM_BESIDE_WEIGHTS


def loss_bytes(config: PreTrainedConfig, dtype: str, tokens: int) -> int:
    """About what a forward pass of so many tokens takes besides the weights.

    Of the layers, which keep nothing, the widest counts, and then one chunk of logits.
    """
    text: Any = config.get_text_config()
    width: int = getattr(torch, dtype).itemsize
    hidden: int = text.hidden_size
    inner: int = getattr(text, "intermediate_size", None) or 4 * hidden
    layer = width * tokens * (3 * hidden + max(4 * hidden, 3 * inner))
    logits = min(tokens * text.vocab_size, LOGITS_PER_CHUNK) * (width + _LOGIT_BYTES)
    return int(layer + logits)


def _without_vllm(asked: Asked) -> Arrangement:
    if asked in ("views", "sleep", "reload"):
        raise _impossible(asked, "no answers are generated, so there is no vLLM", "auto")
    reason = "no answers are generated: there is no vLLM, transformers has the device to itself"
    return Arrangement("together", reason)


def _two_copies(no_views: str, needed: int, free_bytes: int | None) -> Arrangement:
    if free_bytes is None:
        return Arrangement("together", f"{_REASONS['together']}: {no_views}")
    room = f"the second with its loss takes about {_gib(needed)} of {_gib(free_bytes)} free"
    name: Name = "together" if needed <= free_bytes else "reload"
    return Arrangement(name, f"{_REASONS[name]}: {no_views}; {room}")


def _reason(name: Name, asked: Asked, *, on_cpu: bool = False) -> str:
    wish = "" if asked == "auto" else ", as the study asks for"
    there = _ON_CPU[name] if on_cpu else ""
    return f"{_REASONS[name]}{wish}{there}"


def _impossible(asked: Asked, why: str, allowed: str) -> InputError:
    return InputError(
        f"evaluation.memory: given {asked}, but {why}; allowed here: {allowed}; "
        "leave it out to have it chosen"
    )


def _no_room(asked: Asked, weights_bytes: int, free_bytes: int) -> InputError:
    return InputError(
        f"evaluation.memory: given {asked}, for which transformers needs a copy of "
        f"{_gib(weights_bytes)}; allowed: what fits into the {_gib(max(0, free_bytes))} free "
        "beside vLLM's share; lower evaluation.gpu_memory_fraction"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
