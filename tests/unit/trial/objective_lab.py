"""What the tests of the objective share: configurations, batches, losses by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.features import Feature, switched_on
from workers.data.batches.collate import Batch, collate, collate_packed
from workers.data.batches.packing import pack
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.objective.code_blocks import CodeBlocks
from workers.trial.loop.objective.objective import MicroLoss, Objective

CPU = torch.device("cpu")
PAD = 257


def configuration(regularisation: dict[str, Any] | None = None, **fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "optimizer": {"learning_rate": 1e-3},
            "effective_batch_size": 8,
            "max_batches": 8,
            "regularisation": regularisation or {},
            **fields,
        }
    )


def load(folder: Path) -> Any:
    """The tiny model in training mode, which has no dropout."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()


def parts(examples: Sequence[EncodedExample], size: int) -> list[Batch]:
    """A step's examples in micro-batches, each a row of its own."""
    return [
        collate(
            examples[start : start + size],
            pad_id=PAD,
            device=CPU,
            members=range(start, min(start + size, len(examples))),
        )
        for start in range(0, len(examples), size)
    ]


def packed(examples: Sequence[EncodedExample], capacity: int, size: int) -> list[Batch]:
    """The same in packed rows, so many to a micro-batch."""
    rows = pack([len(example.input_ids) for example in examples], capacity)
    return [
        collate_packed(examples, rows[start : start + size], pad_id=PAD, device=CPU)
        for start in range(0, len(rows), size)
    ]


def losses(
    model: Any,
    config: TrainingConfig,
    examples: Sequence[EncodedExample],
    batches: Sequence[Batch],
    code: CodeBlocks | None = None,
    features: frozenset[Feature] | None = None,
) -> list[MicroLoss]:
    """Of one optimizer step."""
    features = switched_on(config) if features is None else features
    step = Objective(config, code).step(examples, features)
    return [step(model, batch) for batch in batches]


def total(found: Sequence[MicroLoss]) -> torch.Tensor:
    """The step's objective."""
    return torch.stack([part.objective for part in found]).sum()


def gradient(model: Any, objective: torch.Tensor) -> torch.Tensor:
    """Of all weights, flat."""
    names = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat([each.flatten() for each in torch.autograd.grad(objective, names)])


def learned(example: EncodedExample) -> list[int]:
    """Positions of the learned tokens."""
    return [
        place
        for place in range(1, len(example.input_ids))
        if any(start <= place < end for start, end in example.learned)
    ]


def full_logits(model: Any, example: EncodedExample) -> torch.Tensor:
    """Logits that predict the learned tokens, one example at a time, unpadded."""
    places = torch.tensor(learned(example), dtype=torch.int64)
    logits: torch.Tensor = model(torch.tensor([example.input_ids])).logits[0]
    return logits[places - 1]


def targets(example: EncodedExample) -> torch.Tensor:
    return torch.tensor([example.input_ids[place] for place in learned(example)], dtype=torch.int64)


def negative_log_likelihoods(model: Any, example: EncodedExample) -> torch.Tensor:
    logits = full_logits(model, example)
    chosen = logits[torch.arange(len(logits)), targets(example)]
    return torch.logsumexp(logits, 1) - chosen
