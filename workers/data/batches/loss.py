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


@dataclass(frozen=True)
class Counted:
    """The counted tokens of a batch, in the order of its rows."""

    places: torch.Tensor
    """int64 (counted,), where they stand in the flattened rows; the device is not asked."""
    targets: torch.Tensor
    """int64 (counted,), the tokens."""
    weights: torch.Tensor
    """float32 (counted,), the weights of their examples."""

    @classmethod
    def of(cls, batch: Batch) -> Counted:
        """Of a batch, on its device."""
        labels = batch.labels.flatten()
        places = (labels != IGNORED).nonzero_static(size=batch.counted).squeeze(1)
        return cls(places, labels[places], batch.weights.flatten()[places])

    def states(self, hidden: torch.Tensor) -> torch.Tensor:
        """(counted, hidden size), the states at the tokens."""
        return hidden.flatten(0, 1).index_select(0, self.places)

    def predicting(self, hidden: torch.Tensor) -> torch.Tensor:
        """(counted, hidden size), the states one before, which predict the tokens."""
        return hidden.flatten(0, 1).index_select(0, self.places - 1)


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
    counted = Counted.of(batch)
    states = counted.predicting(hidden_states(causal, batch))
    (losses,) = in_chunks(cross_entropies, causal, states, counted.targets)
    if weighted:
        # Autocast would round the factors of a matrix product.
        return (losses * counted.weights).sum(), batch.weighted
    return losses.sum(), batch.counted


def hidden_states(causal: Any, batch: Batch) -> torch.Tensor:
    """(rows, longest, hidden size), what the output layer makes logits of."""
    states: torch.Tensor = causal.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states


def in_chunks(
    function: Callable[..., tuple[torch.Tensor, ...]],
    causal: Any,
    *inputs: torch.Tensor,
    logits: int = 1,
) -> tuple[torch.Tensor, ...]:
    """What `function(causal, *inputs)` gives, with so many logits at a time.

    The function gives values token by token, as float32 (tokens,), of inputs
    that begin with an axis of tokens. It may use `logits` logits per token and
    word, and no randomness: several chunks are computed again in the backward
    pass.
    """
    words = causal.config.get_text_config().vocab_size
    chunk = max(1, LOGITS_PER_CHUNK // (words * logits))
    count = len(inputs[0])
    if count <= chunk:
        return function(causal, *inputs)
    parts = [
        checkpoint(
            function,
            causal,
            *(each[start : start + chunk] for each in inputs),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, count, chunk)
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def cross_entropies(
    causal: Any, states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor]:
    """Nats of each target, (tokens,), from states (tokens, hidden size)."""
    return (cross_entropy(logits_of(causal, states), targets, reduction="none"),)


@torch.no_grad()
def evaluation_loss(
    model: nn.Module,
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    tokens_per_batch: int,
    most: int | None = None,
    device: torch.device,
    on_progress: Callable[[], None] | None = None,
) -> LossResult:
    """Loss over a whole set, summed in float64.

    Examples are sorted by length and batched up to `tokens_per_batch` padded
    tokens and `most` examples per forward pass (an example longer than that
    goes alone). Their weights are for training and change nothing here.
    `on_progress` is called after each forward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    tokens = 0
    with _evaluating(model):
        for part in batches_by_length(examples, tokens_per_batch, most=most):
            batch = collate(part, pad_id=pad_id, device=device)
            total += token_losses(model, batch)[0]
            tokens += batch.counted
            if on_progress is not None:
                on_progress()
    return LossResult(total.item(), tokens)


def batches_by_length(
    examples: Sequence[EncodedExample], tokens_per_batch: int, *, most: int | None = None
) -> Iterator[list[EncodedExample]]:
    """Examples from short to long, in batches of at most so many padded tokens and examples."""
    batch: list[EncodedExample] = []
    for index in np.argsort(lengths_of(examples), kind="stable").tolist():
        example = examples[index]
        full = len(batch) == most or (len(batch) + 1) * len(example.input_ids) > tokens_per_batch
        if batch and full:
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
    got = logits_of(causal, causal.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if got.shape != wanted.shape or (got - wanted).abs().max() > 1e-2 * wanted.abs().max():
        raise InputError(
            f"model.path: given a {type(causal).__name__}, which changes its logits after the "
            "output layer; allowed: a causal language model with plain or soft-capped logits"
        )


def logits_of(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
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
