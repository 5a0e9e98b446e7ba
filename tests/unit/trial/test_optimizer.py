import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_lab import (
    config,
    equal,
    set_gradients,
    take_steps,
    through_a_file,
    trained,
    weights,
)
from torch import nn

from hpo.spec.training.config import TrainingConfig
from workers.trial.failures import InvalidTrial
from workers.trial.loop.length import total_steps
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.groups import peak_rate

OPTIMIZERS: list[dict[str, Any]] = [
    {"type": "adamw", "weight_decay": 0.1},
    {"type": "adamw", "layer_decay": 0.8, "weight_decay": 0.1},
    {"type": "adamw", "offload": 0.5, "layer_decay": 0.8},
    {"type": "adamw", "offload": 1.0},
    {"type": "muon", "weight_decay": 0.1},
    {"type": "muon", "layer_decay": 0.8, "nesterov": False, "adjustment": "original"},
]


def adamw_by_the_paper(
    weight: torch.Tensor, gradients: list[torch.Tensor], *, rate: float, decay: float
) -> torch.Tensor:
    """Algorithm 2 of arXiv:1711.05101 with betas 0.8 and 0.95, in float64."""
    weight = weight.double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        mean = first / (1 - 0.8**step)
        scale = (second / (1 - 0.95**step)).sqrt() + 1e-6
        weight = weight - rate * mean / scale - rate * decay * weight
    return weight


def test_adamw_computes_what_its_paper_says_and_matrices_alone_decay() -> None:
    given = config({"weight_decay": 0.5, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6})
    named, seen = weights(), weights()
    gradients: list[list[torch.Tensor]] = [[] for _ in named]
    for step in range(4):
        set_gradients(named, step)
        for kept, (_, weight) in zip(gradients, named, strict=True):
            assert weight.grad is not None
            kept.append(weight.grad.clone())
    take_steps(make_optimizer(given, seen), seen, range(4))
    for (_, before), kept, (_, after) in zip(named, gradients, seen, strict=True):
        decay = 0.5 if before.ndim == 2 else 0.0
        wanted = adamw_by_the_paper(before.detach(), kept, rate=0.01, decay=decay)
        torch.testing.assert_close(after.detach().double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_resumed_equals_uninterrupted_to_the_bit(
    optimizer: dict[str, Any], dtype: torch.dtype
) -> None:
    given = config(optimizer, schedule={"type": "cosine", "warmup_steps": 1})
    whole = trained(given, dtype=dtype)
    assert equal(whole, trained(given, dtype=dtype))
    for step in (1, 4):
        assert equal(whole, trained(given, dtype=dtype, interrupted_after=step))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_state_is_loaded_with_its_rates(optimizer: dict[str, Any]) -> None:
    named = weights()
    saved = make_optimizer(config(optimizer), named)
    take_steps(saved, named, range(1))
    for group in saved.param_groups:
        group["lr"] *= 0.25
    other = make_optimizer(config(optimizer), weights())
    other.load_state_dict(through_a_file(saved.state_dict()))
    assert peak_rate(other) == pytest.approx(0.01 / 4)
    assert [group["lr"] for group in other.param_groups] == [
        group["lr"] for group in saved.param_groups
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_nothing_is_left_on_the_parameters(optimizer: dict[str, Any]) -> None:
    named = weights()
    before = [dict(vars(weight)) for _, weight in named]
    addresses = [weight.data_ptr() for _, weight in named]
    take_steps(make_optimizer(config(optimizer), named), named, range(2))
    assert [vars(weight) for _, weight in named] == before
    assert all(weight.grad is None for _, weight in named)
    assert [weight.data_ptr() for _, weight in named] == addresses


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_parameters_without_a_gradient_stay(optimizer: dict[str, Any]) -> None:
    named, untouched = weights(), weights()
    built = make_optimizer(config(optimizer), named)
    set_gradients(named, 0)
    for _, weight in named[::2]:
        weight.grad = None
    built.step()
    changed = [
        not torch.equal(one, other) for (_, one), (_, other) in zip(named, untouched, strict=True)
    ]
    assert changed == [bool(index % 2) for index in range(len(named))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_closure_is_called_for_the_loss(optimizer: dict[str, Any]) -> None:
    named = weights()

    def loss() -> float:
        total = sum((weight**2).sum() for _, weight in named)
        assert isinstance(total, torch.Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    step: Callable[..., Any] = make_optimizer(config(optimizer), named).step
    assert step(loss) > step(loss) > 0


@pytest.mark.parametrize("kind", ["paged-adamw", "adamw-8bit", "paged-adamw-8bit"])
def test_bitsandbytes_needs_a_gpu(kind: str) -> None:
    with pytest.raises(InvalidTrial) as raised:
        make_optimizer(config({"type": kind}), weights())
    assert raised.value.message == (
        f"training.optimizer.type: given '{kind}' on a CPU; allowed: adamw or muon, or a GPU"
    )


def test_bitsandbytes_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "workers.trial.optimizer.bitsandbytes", raising=False)
    elsewhere = [("a", nn.Parameter(torch.empty(2, 2, device="meta")))]
    with pytest.raises(InvalidTrial) as raised:
        make_optimizer(config({"type": "adamw-8bit"}), elsewhere)
    assert raised.value.message == (
        "training.optimizer.type: given 'adamw-8bit' but the package bitsandbytes is not "
        "installed; allowed: adamw or muon, or install bitsandbytes"
    )


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"max_batches": 9}, 9),
        ({"max_examples": 65}, 3),
        ({"epochs": 2.0}, 7),
        ({"epochs": 0.1}, 1),
        # 2.24 x 100 is a little more than 224 in floating point.
        ({"epochs": 2.24}, 7),
        ({"epochs": 1e-9}, 1),
        ({"max_batches": 9, "max_examples": 128, "epochs": 100.0}, 4),
    ],
)
def test_the_smallest_limit_ends_a_trial(limits: dict[str, float], wanted: int) -> None:
    given = TrainingConfig.model_validate(
        {"optimizer": {"learning_rate": 0.1}, "effective_batch_size": 32, **limits}
    )
    assert total_steps(given, examples=100) == wanted
