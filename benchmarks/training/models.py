"""Models of several sizes with random weights: how fast they train does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


@dataclass(frozen=True)
class Shape:
    """The shape of a Qwen2-type model with tied embeddings."""

    name: str
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    vocabulary: int = 4096

    @property
    def config(self) -> Qwen2Config:
        """As transformers has it; the last two words are the end of text and padding."""
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )

    def write(self, folder: Path, dtype: Literal["bfloat16", "float32"] = "float32") -> Path:
        """Write random weights, the same each time, and return the folder."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = Qwen2ForCausalLM(self.config)  # type: ignore[no-untyped-call]
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        return folder


ONE_MILLION = Shape("1 M", 128, 3, 384, 4, 2)
TEN_MILLION = Shape("10 M", 320, 8, 864, 10, 2)
FIFTY_MILLION = Shape("50 M", 640, 11, 1792, 10, 2)
MANY_MILLION = Shape("150 M", 1024, 17, 2048, 16, 2)
QWEN_1_5B = Shape("Qwen2.5-1.5B", 1536, 28, 8960, 12, 2, 151936)
"""The shape of Qwen/Qwen2.5-1.5B, for a GPU."""
SIZES = (ONE_MILLION, TEN_MILLION, FIFTY_MILLION, MANY_MILLION)


def shape_for(device: torch.device) -> Shape:
    """The model that a device of this type is measured with."""
    return QWEN_1_5B if device.type == "cuda" else TEN_MILLION


def dtype_for(device: torch.device) -> Literal["bfloat16", "float32"]:
    """The type that a model is served in on a device of this type."""
    return "bfloat16" if device.type == "cuda" else "float32"
