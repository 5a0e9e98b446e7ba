"""How the two engines share a device's memory: a table of cases."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import GPT2Config, Qwen2Config

from hpo.spec.errors import InputError
from hpo.spec.study import EvaluationSpec, Every
from workers.data.batches.loss import LOGITS_PER_CHUNK
from workers.evaluation.engines.arrangement import (
    Arrangement,
    Asked,
    choose_arrangement,
    free_beside_vllm,
    loss_bytes,
)

GIB = 1 << 30
ROOM = {"free_bytes": 20 * GIB}
LITTLE = {"free_bytes": 5 * GIB}
NONE = {"free_bytes": 2 * GIB}
CPU: dict[str, Any] = {"device": "cpu", "free_bytes": None}
GPT2 = {"model_type": "gpt2"}
PACKED = {"not_plain": "vLLM keeps lm_head.weight as torch.bfloat16 [0]"}
ALONE = {"generation": False}


def choose(asked: Asked, *parts: dict[str, Any]) -> Arrangement:
    """For a Qwen2 model of 3 GiB on a GPU, but for what `parts` say."""
    case: dict[str, Any] = {
        "model_type": "qwen2",
        "device": "cuda",
        "generation": True,
        "weights_bytes": 3 * GIB,
        "loss_bytes": 4 * GIB,
        **ROOM,
    }
    for part in parts:
        case |= part
    return choose_arrangement(asked, **case)


@pytest.mark.parametrize(
    ("asked", "parts", "name", "reason"),
    [
        # Views wherever they can be.
        ("auto", [], "views", "reads vLLM's tensors"),
        ("auto", [NONE], "views", "reads vLLM's tensors"),
        ("auto", [CPU], "views", "reads vLLM's tensors"),
        ("auto", [CPU, {"model_type": "llama"}], "views", "reads vLLM's tensors"),
        ("auto", [{"model_type": "mistral"}], "views", "reads vLLM's tensors"),
        # Else two copies, side by side where they have room.
        ("auto", [GPT2], "together", "gpt2 model is not known.* 7.0 GiB of 20.0 GiB free"),
        ("auto", [GPT2, LITTLE], "reload", "drops its weights.* 7.0 GiB of 5.0 GiB free"),
        ("auto", [GPT2, CPU], "together", "a copy of the weights each: .*gpt2"),
        ("auto", [PACKED], "together", r"lm_head.weight as torch.bfloat16 \[0\]"),
        ("auto", [PACKED, CPU], "together", "lm_head.weight"),
        ("auto", [PACKED, LITTLE], "reload", "lm_head.weight"),
        # What is asked for.
        ("views", [], "views", "as the study asks for"),
        ("together", [], "together", "as the study asks for"),
        ("together", [LITTLE], "together", "as the study asks for"),
        ("sleep", [], "sleep", "host memory.*as the study asks for"),
        ("reload", [GPT2], "reload", "takes them anew, as the study asks for$"),
        ("reload", [CPU], "reload", "as the study asks for; on a CPU that frees nothing"),
        # No vLLM.
        ("auto", [ALONE, NONE], "together", "there is no vLLM"),
        ("together", [ALONE], "together", "there is no vLLM"),
    ],
)
def test_the_arrangement_and_its_reason(
    asked: Asked, parts: list[dict[str, Any]], name: str, reason: str
) -> None:
    chosen = choose(asked, *parts)
    assert chosen.name == name
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize(
    ("asked", "parts", "message"),
    [
        ("views", [GPT2], "given views, but .*gpt2.*allowed here: auto, together.*leave it out"),
        ("views", [PACKED], "given views, but vLLM keeps lm_head.weight"),
        ("views", [ALONE], "given views, but no answers are generated"),
        ("reload", [ALONE], "given reload, but no answers are generated"),
        ("auto", [GPT2, NONE], "a copy of 3.0 GiB; allowed: .*2.0 GiB free.*gpu_memory_fraction"),
        ("together", [NONE], "given together, .*2.0 GiB free"),
        ("sleep", [NONE], "given sleep, .*2.0 GiB free"),
        ("reload", [{"free_bytes": -GIB}], "given reload, .*0.0 GiB free"),
    ],
)
def test_what_cannot_be_is_refused(asked: Asked, parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(asked, *parts)


def test_vllm_has_its_share_or_a_cache_of_a_stated_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * GIB, 80 * GIB))
    every = Every(batches=1)
    share = EvaluationSpec(every=every, gpu_memory_fraction=0.5)
    assert free_beside_vllm(share, 3 * GIB) == 30 * GIB
    cache = EvaluationSpec(every=every, kv_cache_mib=2048)
    assert free_beside_vllm(cache, 3 * GIB) == 63.5 * GIB


def test_the_loss_takes_the_widest_layer_and_a_chunk_of_logits() -> None:
    small = Qwen2Config(hidden_size=64, intermediate_size=192, vocab_size=1000)
    assert loss_bytes(small, "bfloat16", 100) == 2 * 100 * (3 * 64 + 3 * 192) + 100 * 1000 * 10
    large = Qwen2Config(hidden_size=1536, intermediate_size=8960, vocab_size=151_936)
    logits = LOGITS_PER_CHUNK * 10
    assert loss_bytes(large, "bfloat16", 8192) == 2 * 8192 * (3 * 1536 + 3 * 8960) + logits
    assert loss_bytes(GPT2Config(), "float32", 100) > 0
