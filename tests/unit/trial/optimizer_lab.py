"""What the tests of optimizers share: configurations, named weights, trajectories."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hpo.spec.training.config import TrainingConfig
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.schedule import make_schedule

Named = list[tuple[str, nn.Parameter]]

SHAPES = {
    "model.embed_tokens.weight": (11, 6),
    "model.layers.0.mlp.up_proj.weight": (8, 6),
    "model.layers.0.mlp.down_proj.weight": (6, 8),
    "model.layers.0.mlp.up_proj.bias": (8,),
    "model.layers.1.mlp.up_proj.weight": (8, 6),
    "model.norm.weight": (6,),
    "lm_head.weight": (11, 6),
}


def config(
    optimizer: dict[str, Any] | None = None, *, rate: float = 0.01, **fields: Any
) -> TrainingConfig:
    given = {"learning_rate": rate, **(optimizer or {})}
    return TrainingConfig.model_validate(
        {"optimizer": given, "effective_batch_size": 8, "max_batches": 6, **fields}
    )


def weights(dtype: torch.dtype = torch.float32) -> Named:
    """Named weights, the same at each call."""
    random = torch.Generator().manual_seed(0)
    return [
        (name, nn.Parameter(torch.randn(shape, generator=random).to(dtype)))
        for name, shape in SHAPES.items()
    ]


def set_gradients(named: Named, step: int) -> None:
    random = torch.Generator().manual_seed(100 + step)
    for _, weight in named:
        weight.grad = torch.randn(weight.shape, generator=random).to(weight.dtype)


def take_steps(optimizer: Optimizer, named: Named, steps: Sequence[int]) -> None:
    for step in steps:
        set_gradients(named, step)
        optimizer.step()
        optimizer.zero_grad()


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def trained(
    given: TrainingConfig,
    *,
    interrupted_after: int | None = None,
    dtype: torch.dtype = torch.float32,
    make: Callable[[TrainingConfig, Named], Optimizer] = make_optimizer,
) -> list[torch.Tensor]:
    """Weights after six steps with a cosine schedule, through a saved state or not."""
    named = weights(dtype)
    optimizer = make(given, named)
    schedule = make_schedule(given.schedule, optimizer, 6)
    for step in range(6):
        if step == interrupted_after:
            state = through_a_file([optimizer.state_dict(), schedule.state_dict()])
            named = [(name, nn.Parameter(weight.detach().clone())) for name, weight in named]
            optimizer = make(given, named)
            schedule = make_schedule(given.schedule, optimizer, 6)
            optimizer.load_state_dict(state[0])
            schedule.load_state_dict(state[1])
        set_gradients(named, step)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return [weight.detach() for _, weight in named]


def equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
