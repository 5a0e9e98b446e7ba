"""NEFTune: uniform noise on the embeddings (arXiv:2310.05914)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from workers.data.batches.collate import Batch


@contextmanager
def noisy_embeddings(causal: Any, batch: Batch, alpha: float) -> Iterator[None]:
    """Inside, forward passes over `batch` have noise on their embeddings.

    The noise of a token is uniform in ±alpha / √(L·d), drawn for every
    dimension apart, L being the tokens of its own example and d the size of
    an embedding. So neither padding nor packing changes its scale, and padding has none.
    """
    size = _magnitudes(batch, alpha)

    def add_noise(module: object, inputs: object, embeddings: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(embeddings).uniform_(-1, 1)
        scale = size / math.sqrt(embeddings.shape[-1])
        return embeddings + noise * scale[..., None].to(embeddings.dtype)

    hook = causal.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()


def _magnitudes(batch: Batch, alpha: float) -> torch.Tensor:
    """alpha / √L at every position, 0 on padding: float32 (rows, longest)."""
    of_examples = [alpha / math.sqrt(example.length) for example in batch.examples]
    # Padding belongs to document -1, which is the last one.
    return torch.tensor([*of_examples, 0.0], device=batch.documents.device)[batch.documents]
