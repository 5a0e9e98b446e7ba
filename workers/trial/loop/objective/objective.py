"""The loss of one optimizer step, micro-batch by micro-batch.

The token losses of a step, each times its example's weight where training
weighs by quality, are summed up and divided by the sum of those weights over
the step's counted tokens: Σ / Σ, whatever the micro-batch. With R-Drop and label
smoothing it is their token losses; the code-block loss is added, with its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.features import Feature
from workers.data.batches.collate import Batch
from workers.data.batches.loss import (
    Counted,
    causal_model,
    cross_entropies,
    hidden_states,
    in_chunks,
)
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import InvalidTrial
from workers.trial.loop.objective import rdrop
from workers.trial.loop.objective.code_blocks import CodeBlocks
from workers.trial.loop.objective.code_loss import CodeTerm, kinds_of
from workers.trial.loop.objective.neftune import noisy_embeddings
from workers.trial.loop.objective.smoothing import smoothed_cross_entropies


@dataclass
class MicroLoss:
    """What one micro-batch adds to the loss of an optimizer step."""

    objective: torch.Tensor
    """Float32 scalar with a gradient, divided by the step's divisors already:
    summed over the micro-batches it is what the step minimises."""
    loss: torch.Tensor
    """Float64 scalar, the share of the plain cross-entropy per counted token,
    weighted by quality where that is on: no smoothing and no further terms. Not
    weighted in a step whose examples all weigh nothing, whose loss is not zero."""
    per_example: torch.Tensor | None
    """Float32 (examples of the batch,), the plain mean loss per learned token, 0
    without any; only for an order that goes by it."""


class Objective:
    """What a trial minimises."""

    def __init__(self, config: TrainingConfig, code: CodeBlocks | None) -> None:
        """`code` finds the code blocks, for the code-block loss alone."""
        if config.regularisation.code_loss is not None and code is None:
            raise ValueError("the code-block loss needs a CodeBlocks")
        self._config = config
        self._code = code

    def check(self, examples: Sequence[EncodedExample]) -> None:
        """Refuse a code-block loss that would do nothing on a training set.

        Looks for one example with code and prose, so takes long where there is
        none. Raises InvalidTrial.
        """
        code = self._code
        if code is None or any(kinds_of(code, example) is not None for example in examples):
            return
        raise InvalidTrial(
            f"training.regularisation.code_loss: given for {len(examples)} training examples of "
            "which none learns both code and prose, two tokens at least of either; allowed: null, "
            "or examples with ``` fences in what is learned"
        )

    def step(
        self, examples: Sequence[EncodedExample], features: frozenset[Feature]
    ) -> StepObjective:
        """The objective of one optimizer step over `examples`, with these features on."""
        return StepObjective(self._config, self._code, examples, features)


class StepObjective:
    """The objective of one optimizer step, its divisors known."""

    def __init__(
        self,
        config: TrainingConfig,
        code: CodeBlocks | None,
        examples: Sequence[EncodedExample],
        features: frozenset[Feature],
    ) -> None:
        given = config.regularisation
        self._weighted = "quality_weighting" in features
        self._smoothing = given.label_smoothing if "label_smoothing" in features else 0.0
        self._rdrop = given.rdrop if "rdrop" in features else None
        self._neftune = given.neftune if "neftune" in features else None
        self._code: CodeTerm | None = None
        if code is not None and given.code_loss is not None and "code_loss" in features:
            weight = given.code_loss.weight
            self._code = CodeTerm(code, examples, weight, by_quality=self._weighted)
        self._wants_examples = config.order.dynamic_curriculum is not None
        self._divisor = _divisor(examples, weighted=self._weighted)
        weigh = any(example.weight * example.counted > 0 for example in examples)
        self._tells_weighted = self._weighted and weigh
        self._told_divisor = _divisor(examples, weighted=self._tells_weighted)

    def __call__(self, model: nn.Module, batch: Batch) -> MicroLoss:
        """The share of one micro-batch, by one forward pass, or two with R-Drop.

        `model` is a transformers causal language model or one that peft
        wrapped. Of R-Drop's two passes each has the code-block loss by half.
        """
        causal = causal_model(model)
        counted = Counted.of(batch)
        passes = [self._hidden_states(causal, batch) for _ in range(self._passes)]
        losses, plain = self._token_losses(
            causal, [counted.predicting(hidden) for hidden in passes], counted.targets
        )
        objective = _sum(losses, counted, weighted=self._weighted) / self._divisor
        if self._code is not None:
            for hidden in passes:
                objective = objective + self._code(counted.states(hidden), batch) / len(passes)
        told = _sum(plain.double(), counted, weighted=self._tells_weighted)
        return MicroLoss(
            objective=objective,
            loss=told / self._told_divisor,
            per_example=self._per_example(plain, counted, batch),
        )

    @property
    def _passes(self) -> int:
        return 1 if self._rdrop is None else 2

    def _hidden_states(self, causal: Any, batch: Batch) -> torch.Tensor:
        noise: AbstractContextManager[None] = nullcontext()
        if self._neftune is not None:
            noise = noisy_embeddings(causal, batch, self._neftune.alpha)
        with noise:
            return hidden_states(causal, batch)

    def _token_losses(
        self, causal: Any, states: list[torch.Tensor], targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is minimised and the plain losses, detached, both float32 (counted,)."""
        if self._rdrop is not None:
            function = partial(rdrop.rdrop_losses, self._rdrop.alpha, self._smoothing)
            losses, plain = in_chunks(function, causal, *states, targets, logits=rdrop.LOGITS)
        elif self._smoothing:
            smoothed = partial(smoothed_cross_entropies, self._smoothing)
            losses, plain = in_chunks(smoothed, causal, *states, targets)
        else:
            (losses,) = in_chunks(cross_entropies, causal, *states, targets)
            plain = losses.detach()
        return losses, plain

    def _per_example(
        self, plain: torch.Tensor, counted: Counted, batch: Batch
    ) -> torch.Tensor | None:
        if not self._wants_examples:
            return None
        numbers = [max(example.counted, 1) for example in batch.examples]
        sums = plain.new_zeros(len(numbers))
        sums.index_add_(0, batch.documents.flatten()[counted.places], plain)
        return sums / torch.tensor(numbers, device=plain.device)


def _sum(losses: torch.Tensor, counted: Counted, *, weighted: bool) -> torch.Tensor:
    return (losses * counted.weights if weighted else losses).sum()


def _divisor(examples: Sequence[EncodedExample], *, weighted: bool) -> float:
    """Counted tokens of a step, each times its example's weight where asked for.

    A step that has none, or whose examples all weigh nothing, has no gradient,
    whatever it is divided by.
    """
    if weighted:
        return sum(example.weight * example.counted for example in examples) or 1.0
    return sum(example.counted for example in examples) or 1
