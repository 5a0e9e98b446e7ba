"""The loop that one would write by hand, with nothing in it but the arithmetic.

It is given its batches ready-made and its work is that of ours: the same
micro-batches, logits at learned positions only, fused AdamW, clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import IGNORED, Batch
from workers.trial.optimizer.groups import Named


class BareLoop:
    """Trains a transformers model, or the adapter in one."""

    def __init__(
        self,
        model: Any,
        trainable: Sequence[Named],
        config: TrainingConfig,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        """`model` is the causal language model itself, not peft's wrapper."""
        self._model = model
        self._weights = [weight for _, weight in trainable]
        self._clipping = config.gradient_clipping or 0.0
        self._autocast = autocast_dtype
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=config.optimizer.learning_rate, weight_decay=0.0, fused=True
        )

    def step(self, batches: Sequence[Batch]) -> float:
        """One optimizer step over micro-batches; its loss in nats per learned token."""
        counted = sum(batch.counted for batch in batches)
        total = 0.0
        for batch in batches:
            with torch.autocast(
                self._model.device.type, dtype=self._autocast, enabled=self._autocast is not None
            ):
                loss = self._loss(batch) / counted
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        nn.utils.clip_grad_norm_(self._weights, self._clipping)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        hidden = self._model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        targets = batch.labels[:, 1:]
        learned = targets != IGNORED
        logits = self._model.lm_head(hidden[:, :-1][learned]).float()
        return cross_entropy(logits, targets[learned], reduction="sum")
