"""Whether a model keeps packed examples apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import Batch, collate
from workers.data.batches.feeder import Feeder
from workers.data.batches.loss import causal_model, hidden_states
from workers.data.tokens.encoded import EncodedExample

LENGTHS = (7, 6, 5, 4, 3, 1)
"""Tokens of the examples that a model is tried with."""
ROW = 16
"""Tokens of a row of them."""
TOLERATED = 0.1
"""Share of what mixing the examples would change that rounding may change."""


@torch.no_grad()
def separates_packed(model: nn.Module, config: TrainingConfig, device: torch.device) -> bool:
    """Whether no packed example sees another, so that packing changes no loss.

    Some architectures take no notice of positions that begin again. A few
    tokens are packed as the config's batches are; their hidden states must be
    those that each example has alone, up to a small part of what leaving the
    positions out changes. The model is in evaluation mode.
    """
    causal = causal_model(model)
    few = config.model_copy(update={"packing": True, "max_length": ROW})
    examples = [EncodedExample(list(range(n)), ((0, n),)) for n in LENGTHS]
    feeder = Feeder(few, pad_id=0, device=device)
    packed = next(feeder.batches(examples, feeder.rows(examples), len(examples)))
    alone = [_alone(causal, example, device) for example in packed.examples]
    mixed = _distance(_mixed(causal, packed), packed, alone)
    return _distance(hidden_states(causal, packed), packed, alone) <= TOLERATED * mixed


def _alone(causal: Any, example: EncodedExample, device: torch.device) -> torch.Tensor:
    return hidden_states(causal, collate([example], pad_id=0, device=device))[0]


def _mixed(causal: Any, batch: Batch) -> torch.Tensor:
    """Hidden states of rows that are taken for one document each."""
    states: torch.Tensor = causal.base_model(
        input_ids=batch.input_ids, use_cache=False
    ).last_hidden_state
    return states


def _distance(states: torch.Tensor, batch: Batch, alone: list[torch.Tensor]) -> float:
    """Largest difference between examples within rows and alone."""
    return max(
        (states[batch.documents == number] - own).abs().max().item()
        for number, own in enumerate(alone)
    )
