"""The loss: Σ token losses / Σ counted tokens. Its one definition.

Training divides by the counted tokens of a whole optimizer step, evaluation
by those of the whole set. Never a mean of means.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from hpo.spec.errors import InputError
from workers.data.batches.by_length import MemoryLimit, run_by_length
from workers.data.batches.collate import IGNORED, Batch, collate
from workers.data.batches.splitting import PASS_TOKENS
from workers.data.tokens.encoded import EncodedExample, counted_of, lengths_of

LOGITS_PER_CHUNK = 1 << 27
"""Logits held at a time: 512 MiB in float32."""


@dataclass(frozen=True)
class BucketLoss:
    """The loss over examples of similar lengths."""

    longest: int | None
    """Tokens up to which an example belongs here; None for all that are longer."""
    examples: int
    total: float
    """Sum of the token losses, in nats."""
    tokens: int
    """Counted tokens."""


@dataclass(frozen=True)
class ExampleLoss:
    """The loss of one example."""

    length: int
    """Tokens, those that do not count among them."""
    total: float
    """Sum of the token losses, in nats."""
    tokens: int
    """Counted tokens."""


@dataclass(frozen=True)
class LossResult:
    """The loss over a whole set."""

    total: float
    """Sum of the token losses, in nats."""
    tokens: int
    """Counted tokens."""
    examples: tuple[ExampleLoss, ...] = ()
    """In the order of the set."""

    @classmethod
    def of(cls, examples: Sequence[ExampleLoss]) -> LossResult:
        """Of all examples of a set, whose order changes nothing, to the bit."""
        total = math.fsum(example.total for example in examples)
        return cls(total, sum(example.tokens for example in examples), tuple(examples))

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

    def by_length(self, buckets: Sequence[int]) -> list[BucketLoss]:
        """The loss over examples of up to each of so many tokens, and over longer ones.

        `buckets` ascend. Those without an example are left out.
        """
        parts: list[list[ExampleLoss]] = [[] for _ in (*buckets, None)]
        for example in self.examples:
            parts[bisect_left(buckets, example.length)].append(example)
        bounds = (*buckets, None)
        found = ((bound, self.of(part)) for bound, part in zip(bounds, parts, strict=True) if part)
        return [
            BucketLoss(longest, len(part.examples), part.total, part.tokens)
            for longest, part in found
        ]


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
    losses, counted = _counted_losses(model, batch)
    if weighted:
        # Autocast would round the factors of a matrix product.
        return (losses * counted.weights).sum(), batch.weighted
    return losses.sum(), batch.counted


def row_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Sums of the cross-entropies of the counted tokens of each row, float64 (rows,), in nats."""
    losses, counted = _counted_losses(model, batch)
    # Not added up where they stand: on a GPU that happens in any order.
    places = torch.zeros(batch.labels.numel(), dtype=torch.float64, device=losses.device)
    places.index_copy_(0, counted.places, losses.double())
    return places.view_as(batch.labels).sum(1)


def _counted_losses(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Counted]:
    """Cross-entropies of the counted tokens, float32 (counted,), in nats."""
    causal = causal_model(model)
    counted = Counted.of(batch)
    states = counted.predicting(hidden_states(causal, batch))
    (losses,) = in_chunks(cross_entropies, causal, states, counted.targets)
    return losses, counted


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
    limit: MemoryLimit | None = None,
    on_progress: Callable[[], None] | None = None,
) -> LossResult:
    """Loss over a whole set, summed in float64.

    Examples are sorted by length and batched up to `tokens_per_batch` padded
    tokens and `most` examples per forward pass (an example longer than that
    goes alone). A pass that runs out of memory is repeated in smaller ones, and
    `limit` remembers what fits. The weights of examples are for training and
    change nothing here. `on_progress` is called after each forward pass.

    Raises InputError when one example alone does not fit into memory.
    """

    def losses_of(part: list[EncodedExample]) -> torch.Tensor:
        return row_losses(model, collate(part, pad_id=pad_id, device=device))

    done: list[int] = []
    losses: list[torch.Tensor] = []
    known = MemoryLimit() if limit is None else limit
    with _evaluating(model):
        for indices, sums in run_by_length(
            losses_of,
            examples,
            tokens_per_batch,
            most=most,
            limit=known,
            pass_tokens=PASS_TOKENS.get(device.type),
        ):
            done += indices
            losses.append(sums)
            if on_progress is not None:
                on_progress()
    # The device is asked once.
    totals: list[float] = torch.cat(losses).tolist() if losses else []
    lengths, counted = lengths_of(examples)[done], counted_of(examples)[done]
    found = zip(done, map(ExampleLoss, lengths.tolist(), totals, counted.tolist()), strict=True)
    return LossResult.of([example for _, example in sorted(found, key=itemgetter(0))])


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
