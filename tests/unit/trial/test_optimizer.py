from typing import Literal

import pytest
import torch
from torch import nn

from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.optimizer import AdamW, Schedule
from workers.trial.loop.length import total_steps
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.schedule import make_schedule, warmup_steps


def named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters())


def rates(schedule: Schedule, total: int) -> list[float]:
    """Learning rates of all steps, with a peak of 1."""
    optimizer = make_optimizer(AdamW(learning_rate=1.0), named(nn.Linear(2, 2)))
    scheduler = make_schedule(schedule, optimizer, total)
    seen = []
    for _ in range(total):
        seen.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return seen


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    spec = AdamW(learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(spec, named(module))
    before = {name: weight.detach().clone() for name, weight in named(module)}
    for _, weight in named(module):
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in named(module):
        factor = 1 - 0.1 * 0.5 if weight.ndim == 2 else 1.0
        torch.testing.assert_close(weight.detach(), before[name] * factor)


def test_the_parameters_reach_the_optimizer() -> None:
    spec = AdamW(learning_rate=0.1, beta1=0.8, beta2=0.95, epsilon=1e-6)
    group = make_optimizer(spec, named(nn.Linear(2, 2))).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.95), 1e-6)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_warm_up_and_decay(
    shape: Literal["linear", "cosine", "constant"], wanted: list[float]
) -> None:
    schedule = Schedule(type=shape, warmup_steps=2)
    assert rates(schedule, 6) == pytest.approx(wanted, abs=1e-6)


def test_warmup_is_given_in_steps_or_as_a_ratio() -> None:
    assert warmup_steps(Schedule(), 100) == 0
    assert warmup_steps(Schedule(warmup_steps=7), 100) == 7
    assert warmup_steps(Schedule(warmup_ratio=0.125), 100) == 13


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"max_batches": 9}, 9),
        ({"max_examples": 65}, 3),
        ({"epochs": 2.0}, 7),
        ({"epochs": 0.1}, 1),
        ({"max_batches": 9, "max_examples": 128, "epochs": 100.0}, 4),
    ],
)
def test_the_smallest_limit_ends_a_trial(limits: dict[str, float], wanted: int) -> None:
    config = TrainingConfig.model_validate(
        {"optimizer": {"learning_rate": 0.1}, "effective_batch_size": 32, **limits}
    )
    assert total_steps(config, examples=100) == wanted
