"""Adapters that vLLM refuses are scored merged; the base is restored to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_lab import EXAMPLES, Answers, Lab, closing, told

from storage.checkpoints import Checkpoint, CheckpointError
from workers.data.batches.loss import evaluation_loss
from workers.evaluation.engines.engines import EvaluationEngines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LARGEST_RANK = 8
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "biases": {"r": 4, "target_modules": ["q_proj"], "bias": "lora_only"},
    "all biases": {"r": 4, "target_modules": ["o_proj"], "bias": "all"},
    "rank": {"r": LARGEST_RANK + 1, "target_modules": ["v_proj"]},
    "ranks": {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}},
    "alphas": {"r": 4, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 3}},
    "norm": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "head": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "adapted head": {"r": 4, "target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"r": 4, "target_modules": ["embed_tokens"]},
    "tokens": {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
}
QUICK = ("dora", "biases", "rank", "norm", "embeddings")
TIED: dict[str, dict[str, Any]] = {
    "adapted": {"r": 4, "target_modules": ["q_proj", "embed_tokens"]},
    "adapted head": {"r": 4, "target_modules": ["lm_head"]},
    "whole": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}
# peft warns of what is tied and of what it stores besides.
pytestmark += [
    pytest.mark.filterwarnings(f"ignore:{beginning}")
    for beginning in (
        "Setting `save_embedding_layers`",
        "Model has `tie_word_embeddings=True`",
        "Model with `tie_word_embeddings=True`",
        "Input and output embeddings are no longer tied",
    )
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), tied=False)


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=LARGEST_RANK)) as engines:
        yield engines


@pytest.fixture(scope="module")
def base(engines: EvaluationEngines) -> Answers:
    return told(engines, None)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.exhaustive) for kind in KINDS],
)
def test_an_adapter_is_scored_as_peft_merges_it(
    lab: Lab, engines: EvaluationEngines, base: Answers, kind: str
) -> None:
    """To the bit, and as peft computes it without merging; then the base again, to the bit."""
    adapter = lab.adapter(f"one {kind}", 7, lora_alpha=8, **KINDS[kind])
    said = told(engines, adapter)
    assert said == told(engines, lab.merged(adapter))
    assert said.loss == pytest.approx(_loss(lab, adapter), abs=2e-4)
    assert said.tokens != base.tokens
    assert told(engines, None) == base


def test_merged_and_served_adapters_take_turns(
    lab: Lab, engines: EvaluationEngines, base: Answers
) -> None:
    served = lab.adapter("served", 5, r=4, target_modules=["q_proj", "up_proj"])
    merged = lab.adapter("merged", 6, **KINDS["dora"])
    full = lab.full(71)
    checkpoints: list[Checkpoint | None] = [served, merged, full, None]
    first = [told(engines, checkpoint) for checkpoint in checkpoints]
    assert len({one.loss for one in first}) == 4
    assert [told(engines, one) for one in reversed(checkpoints)] == first[::-1]
    assert [told(engines, one) for one in checkpoints] == first


def test_what_cannot_be_merged_is_refused(
    lab: Lab, engines: EvaluationEngines, base: Answers
) -> None:
    adapter = lab.adapter("short", 3, **KINDS["dora"])
    file = adapter.directory / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    _refused_then_base(engines, adapter, "cannot be read", base)
    file.write_bytes(whole)
    config = adapter.directory / "adapter_config.json"
    text = config.read_text()
    config.write_text(text.replace('"r": 4', '"r": 5'))
    _refused_then_base(engines, adapter, r"float32 \[4, 64\], not \[5, 64\]", base)
    config.write_text(text.replace('"q_proj"', '"input_layernorm"'))
    _refused_then_base(engines, adapter, "cannot be merged: ValueError: Target module", base)


@pytest.mark.parametrize("kind", TIED)
def test_what_would_untie_the_embeddings_is_refused(tmp_path: Path, kind: str) -> None:
    """peft would merge the change into both, though it trained one alone."""
    lab = Lab(tmp_path)
    adapter = lab.adapter("tied", 3, **TIED[kind])
    with closing(lab.engines(generation=False, lora_rank=LARGEST_RANK)) as engines:
        with pytest.raises(CheckpointError, match="which the base model ties to each other"):
            engines.load_weights(adapter)
        together = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
        fine = lab.adapter("fine", 3, r=4, target_modules=["q_proj"], **together)
        engines.load_weights(fine)
        loss = engines.loss(EXAMPLES, tokens_per_batch=64).mean
        assert loss == pytest.approx(_loss(lab, fine), abs=2e-4)


# The last one: an engine that is shut down takes vLLM's process groups from any other.
def test_an_adapter_is_merged_in_the_type_that_is_served(tmp_path: Path) -> None:
    lab = Lab(tmp_path, tied=False, dtype="bfloat16")
    with closing(lab.engines(lora_rank=LARGEST_RANK)) as engines:
        before = told(engines, None)
        for kind in ("dora", "head", "embeddings"):
            adapter = lab.adapter(kind, 7, lora_alpha=8, **KINDS[kind])
            assert told(engines, adapter) == told(engines, lab.merged(adapter))
        assert told(engines, None) == before


def _loss(lab: Lab, adapter: Checkpoint) -> float:
    """As peft computes it on top of the base."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(lab.read_base(), adapter.directory).eval()
    return evaluation_loss(
        model, EXAMPLES, pad_id=0, tokens_per_batch=64, device=torch.device("cpu")
    ).mean


def _refused_then_base(
    engines: EvaluationEngines, bad: Checkpoint, message: str, base: Answers
) -> None:
    with pytest.raises(CheckpointError, match=message):
        engines.load_weights(bad)
    assert told(engines, None) == base
