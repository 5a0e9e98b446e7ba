"""The loss: Σ token losses / Σ counted tokens. Its one definition.

Training divides by the counted tokens of a whole optimizer step, evaluation
by those of the whole set. Never a mean of means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from hpo.spec.errors import InputError
from workers.data.batches.collate import IGNORED, Batch, collate
from workers.data.tokens.encoded import EncodedExample, lengths_of

LOGITS_PER_CHUNK = 1 << 27
"""Logits held at a time: 512 MiB in float32."""


@dataclass(frozen=True)
class LossResult:
    """The loss over a whole set."""

    total: float
    """Sum of the token losses, in nats."""
    tokens: int
    """Counted tokens."""

    @property
    def mean(self) -> float:
        """Nats per counted token."""
        return self.total / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(mean); infinite where that overflows."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf


def token_losses(
    model: nn.Module, batch: Batch, *, weighted: bool = False
) -> tuple[torch.Tensor, float]:
    """Sum of the cross-entropies of the counted tokens, and their number.

    `model` is a transformers causal language model or one that peft wrapped.
    The sum is a float32 scalar in nats. With `weighted`, which is for training
    alone, each token counts its example's weight times, in both results.
    Logits are computed at counted positions only, in chunks, which are
    computed again in the backward pass where there are several.
    """
    causal = causal_model(model)
    hidden = causal.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    counted = targets != IGNORED
    hidden, targets = hidden[:, :-1][counted], targets[counted]
    weights = batch.weights[:, 1:][counted] if weighted else None
    number = batch.weighted if weighted else batch.counted
    chunk = max(1, LOGITS_PER_CHUNK // causal.config.get_text_config().vocab_size)
    if len(targets) <= chunk:
        return _chunk_loss(causal, hidden, targets, weights), number
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        part_weights = None if weights is None else weights[part]
        total = total + checkpoint(
            _chunk_loss, causal, hidden[part], targets[part], part_weights, use_reentrant=False
        )
    return total, number


@torch.no_grad()
def evaluation_loss(
    model: nn.Module,
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    on_progress: Callable[[], None] | None = None,
) -> LossResult:
    """Loss over a whole set, summed in float64.

    Examples are sorted by length and batched up to `tokens_per_batch` padded
    tokens per forward pass (an example longer than that goes alone). Their
    weights are for training and change nothing here.
    `on_progress` is called after each forward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    tokens = 0
    with _evaluating(model):
        for part in batches_by_length(examples, tokens_per_batch):
            batch = collate(part, pad_id=pad_id, device=device)
            total += token_losses(model, batch)[0]
            tokens += batch.counted
            if on_progress is not None:
                on_progress()
    return LossResult(total.item(), tokens)


def batches_by_length(
    examples: Sequence[EncodedExample], tokens_per_batch: int
) -> Iterator[list[EncodedExample]]:
    """Examples from short to long in batches of at most so many padded tokens."""
    batch: list[EncodedExample] = []
    for index in np.argsort(lengths_of(examples), kind="stable").tolist():
        example = examples[index]
        if batch and (len(batch) + 1) * len(example.input_ids) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def causal_model(model: nn.Module) -> Any:
    """The transformers model itself, out of peft's wrapper if it is in one."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


@torch.no_grad()
def check_loss(model: nn.Module, device: torch.device) -> None:
    """Refuse a model whose own logits differ from those that the loss uses.

    Some architectures scale their logits in ways of their own; taking them
    for plain ones would give a wrong loss without a word. Raises InputError.
    """
    causal = causal_model(model)
    ids = torch.arange(8, device=device)[None]
    wanted = causal(input_ids=ids, use_cache=False).logits.float()
    got = _logits(causal, causal.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if got.shape != wanted.shape or (got - wanted).abs().max() > 1e-2 * wanted.abs().max():
        raise InputError(
            f"model.path: given a {type(causal).__name__}, which changes its logits after the "
            "output layer; allowed: a causal language model with plain or soft-capped logits"
        )


def _chunk_loss(
    causal: Any, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    logits = _logits(causal, hidden)
    if weights is None:
        return cross_entropy(logits, targets, reduction="sum")
    return cross_entropy(logits, targets, reduction="none") @ weights


def _logits(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Float32 logits of hidden states of shape (..., hidden size)."""
    logits: torch.Tensor = causal.get_output_embeddings()(hidden).float()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) inside, the mode before after it."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
