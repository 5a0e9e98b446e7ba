"""Gradients of one optimizer step, accumulated over its micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from hpo.spec.training.features import Feature
from workers.data.batches.collate import Batch
from workers.data.batches.feeder import Feeder
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.objective.objective import MicroLoss, Objective, StepObjective
from workers.trial.loop.randomness import RandomStreams
from workers.trial.loop.scaling import LossScale
from workers.trial.model.attached import AttachedModel


@dataclass(frozen=True)
class GradientsOfStep:
    """What a step's passes gave, besides the gradients on the weights."""

    loss: float
    """Plain cross-entropy, nats per counted token."""
    objective: float
    """What the gradients are of."""
    norm: torch.Tensor
    """Norm of the gradient, a scalar on the device."""
    losses: list[float] | None
    """Mean loss of each of the step's examples, where the order wants them."""


class Gradients:
    """Forward and backward passes of whole optimizer steps."""

    def __init__(
        self,
        attached: AttachedModel,
        feeder: Feeder,
        objective: Objective,
        random: RandomStreams,
        optimizer: Optimizer,
        device: torch.device,
        on_progress: Callable[[], None],
    ) -> None:
        self._attached = attached
        self._feeder = feeder
        self._objective = objective
        self._random = random
        self._optimizer = optimizer
        self._device = device
        self._on_progress = on_progress
        half = attached.autocast_dtype is torch.float16
        self._scale = LossScale() if half else None

    def of(
        self, examples: Sequence[EncodedExample], features: frozenset[Feature], micro_batch: int
    ) -> GradientsOfStep:
        """Put the gradients of a step on the weights, `micro_batch` rows at a time.

        A float16 step that overflows is repeated with a smaller loss scale.
        """
        while True:
            found = self._accumulated(examples, features, micro_batch)
            if self._scale is None:
                return found
            if math.isfinite(found.norm.item()):
                self._scale.taken()
                return found
            # A loss that is not finite stays so, however it is scaled.
            if not math.isfinite(found.objective) or not self._scale.shrink():
                return found
            self._random.rewind()

    def take_back(self) -> None:
        """Undo a step that ran out of memory half-way."""
        self._optimizer.zero_grad()
        self._random.rewind()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def scale_state(self) -> dict[str, Any] | None:
        """The loss scale, for `restore_scale`."""
        return None if self._scale is None else self._scale.state()

    def restore_scale(self, state: dict[str, Any] | None) -> None:
        """Go on with the loss scale that `scale_state` gave."""
        if self._scale is not None and state is not None:
            self._scale.restore(state)

    def _accumulated(
        self, examples: Sequence[EncodedExample], features: frozenset[Feature], micro_batch: int
    ) -> GradientsOfStep:
        self._optimizer.zero_grad()
        step = self._objective.step(examples, features)
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        objective = torch.zeros_like(loss)
        losses: dict[int, float] = {}
        rows = self._feeder.rows(examples)
        for batch in self._feeder.batches(examples, rows, micro_batch):
            part = self._backward(step, batch)
            loss += part.loss
            objective += part.objective.detach()
            if part.per_example is not None:
                losses.update(zip(batch.members, part.per_example.tolist(), strict=True))
            self._on_progress()
        return GradientsOfStep(
            loss.item(),
            objective.item(),
            self._norm(),
            [losses[index] for index in range(len(examples))] if losses else None,
        )

    def _backward(self, step: StepObjective, batch: Batch) -> MicroLoss:
        """Add one micro-batch's share to the gradients."""
        autocast_dtype = self._attached.autocast_dtype
        with torch.autocast(
            self._device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None
        ):
            part = step(self._attached.module, batch)
        scale = 1.0 if self._scale is None else self._scale.value
        (part.objective * scale).backward()  # type: ignore[no-untyped-call]
        return part

    def _norm(self) -> torch.Tensor:
        gradients = [
            weight.grad for _, weight in self._attached.trainable if weight.grad is not None
        ]
        if self._scale is not None:
            torch._foreach_mul_(gradients, 1 / self._scale.value)
        return get_total_norm(gradients)
