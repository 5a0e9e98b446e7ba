"""Arguments of `vllm.LLM`, for every engine of the project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpo.spec.study import EvaluationSpec, ModelSpec

_CPU_CACHE_MIB = 128
_CPU_BATCHED_TOKENS = 2048


@dataclass(frozen=True)
class EngineSize:
    """How much an engine may hold and do at a time."""

    sequences: int
    """Decoded at a time."""
    max_model_len: int
    """Tokens of a prompt and its answer."""
    kv_cache_mib: int | None
    """MiB of the key-value cache; as vLLM finds on a GPU, a number on a CPU."""
    gpu_memory_fraction: float
    """Share of a GPU's memory."""


def engine_options(model: str, dtype: str, size: EngineSize, *, device: str) -> dict[str, Any]:
    """Arguments for a device of type `cpu` or `cuda`; `model` is a folder or a hub name."""
    options: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "seed": 0,
        "use_tqdm_on_load": False,
        "max_model_len": size.max_model_len,
        "max_num_seqs": size.sequences,
    }
    if size.kv_cache_mib is not None:
        options["kv_cache_memory_bytes"] = size.kv_cache_mib << 20
    if device != "cpu":
        return options | {"gpu_memory_utilization": size.gpu_memory_fraction}
    batched = max(size.max_model_len + size.sequences, _CPU_BATCHED_TOKENS)
    return options | {
        # Compiling takes longer than it saves there.
        "enforce_eager": True,
        # A prompt that is read in parts is sampled from too early, and vLLM cannot
        # take the generator of a seeded request back there ("CPU Generator does
        # not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": batched,
    }


def evaluation_options(
    model: ModelSpec,
    evaluation: EvaluationSpec,
    *,
    device: str,
    max_model_len: int,
    max_lora_rank: int | None = None,
    together: int = 1,
    sleeps: bool = False,
) -> dict[str, Any]:
    """Arguments of an evaluation worker's engine.

    `together` are the adapters that it serves at a time, of ranks up to
    `max_lora_rank`; None for no adapters. `sleeps` says that its memory is
    given to others in between.
    """
    size = EngineSize(
        sequences=evaluation.max_num_seqs,
        max_model_len=max_model_len,
        kv_cache_mib=evaluation.kv_cache_mib or (_CPU_CACHE_MIB if device == "cpu" else None),
        gpu_memory_fraction=evaluation.gpu_memory_fraction,
    )
    options = engine_options(model.path, model.dtype, size, device=device)
    if sleeps and device != "cpu":
        # Refused on a CPU, where the sequence works without it and frees nothing.
        options["enable_sleep_mode"] = True
    if max_lora_rank is not None:
        options |= {"enable_lora": True, "max_lora_rank": max_lora_rank}
        options |= {"max_loras": together, "max_cpu_loras": together}
    return options
