"""How a trial is computed: precision, memory and speed."""

from __future__ import annotations

from typing import Literal

from hpo.spec.base import NonNegativeInt, PositiveInt, Strict

MECHANICAL = {"micro_batch", "loader_workers", "pin_memory"}
"""Fields that change how fast a trial is computed, and nothing else."""


class Compute(Strict):
    """Precision, memory and speed of training. None of it changes what is minimised."""

    precision: Literal["auto", "bf16", "fp16", "fp32", "pure-bf16"] = "auto"
    """Float32 weights under bfloat16 or float16 autocast (with loss scaling, on
    a GPU) or without; `pure-bf16` trains bfloat16 weights with bfloat16 moments,
    which lose small updates and remember large gradients. `auto` is fp32 where
    `model.dtype` is float32, else bf16."""
    tf32: bool = False
    """Let a GPU round the factors of float32 products to 10 bits of mantissa."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention; `auto` is what the model comes with."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the layers with torch.compile, once for all trials."""
    micro_batch: PositiveInt | None = None
    """Rows of a forward pass to begin with; found by itself, and halved whenever
    memory runs out."""
    loader_workers: NonNegativeInt = 0
    """Threads that make batches ahead of the training."""
    pin_memory: bool = False
    """Make batches in page-locked memory, which copies faster to a GPU."""
    deterministic: bool = False
    """Use deterministic algorithms alone, at some speed."""
