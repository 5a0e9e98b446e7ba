"""Which adapters vLLM serves on top of the base, and which have to be merged, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from storage.checkpoints import CheckpointError
from workers.evaluation.engines.adapters import CONFIG, Adapter, AdapterLayout

LAYOUT = AdapterLayout(
    linear={"model.layers.0.self_attn.q_proj": (4, 4)},
    ends=("model.embed_tokens", "lm_head"),
    max_rank=8,
)


def _adapter(folder: Path, **options: Any) -> Adapter:
    LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **options}).save_pretrained(folder)
    return Adapter.read(folder)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": 8, "use_rslora": True, "lora_dropout": 0.1, "fan_in_fan_out": False},
        {"layers_to_transform": [0], "layers_pattern": "layers"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False, "task_type": "CAUSAL_LM"},
        {"exclude_modules": ["lm_head"]},
    ],
)
def test_plain_adapters_are_served_as_they_are(tmp_path: Path, options: dict[str, Any]) -> None:
    assert _adapter(tmp_path, **options).must_be_merged(LAYOUT) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"r": 9}, "its rank 9 is above 8, the engine's largest"),
        ({"use_dora": True}, "it uses use_dora"),
        ({"bias": "all"}, "it trains biases (all)"),
        ({"modules_to_save": ["norm"]}, "it uses modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "it uses rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "it uses alpha_pattern"),
        ({"lora_bias": True}, "it uses lora_bias"),
        ({"trainable_token_indices": [1]}, "it uses trainable_token_indices"),
        ({"target_modules": ["embed_tokens"]}, "it changes model.embed_tokens"),
        ({"target_modules": "lm_head"}, "it changes lm_head"),
        ({"init_lora_weights": "pissa"}, "it began as pissa, which changes the base weights"),
    ],
)
def test_other_adapters_are_merged(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    assert _adapter(tmp_path, **options).must_be_merged(LAYOUT) == [reason]


def test_what_is_not_known_is_merged(tmp_path: Path) -> None:
    """vLLM would serve it without a word, as if it were not there."""
    _adapter(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"use_novelty": True}))
    assert Adapter.read(tmp_path).must_be_merged(LAYOUT) == ["it uses use_novelty"]


def test_without_a_layout_everything_is_merged(tmp_path: Path) -> None:
    assert _adapter(tmp_path).must_be_merged(None) == ["the engine takes no adapters"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, "of type IA3, not LORA"),
        ({"r": 0}, "its rank is 0"),
        ({"r": "4"}, "its rank is '4'"),
    ],
)
def test_what_is_no_lora_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    _adapter(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | changed))
    with pytest.raises(CheckpointError, match=message):
        Adapter.read(tmp_path)
