from typing import Any

import pytest
import torch
from optimizer_lab import SHAPES, config, set_gradients, take_steps, weights
from peft import LoraConfig, get_peft_model
from torch.optim import SGD, AdamW, Muon
from transformers import Qwen2Config, Qwen2ForCausalLM

from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.combined import Combined

HIDDEN = [name for name, shape in SHAPES.items() if ".layers." in name and len(shape) == 2]


def orthogonalised(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """Newton-Schulz iteration of kellerjordan.github.io/posts/muon, in float64."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: torch.Tensor = wide / wide.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def muon_by_the_post(
    weight: torch.Tensor,
    gradients: list[torch.Tensor],
    *,
    nesterov: bool,
    scale: float,
    steps: int,
) -> torch.Tensor:
    """Rate 0.01, momentum 0.9, weight decay 0.1; averages in torch's form."""
    weight = weight.double()
    momentum = torch.zeros_like(weight)
    for gradient in (one.double() for one in gradients):
        momentum = 0.9 * momentum + 0.1 * gradient
        update = 0.1 * gradient + 0.9 * momentum if nesterov else momentum
        weight = weight - 0.01 * 0.1 * weight - 0.01 * scale * orthogonalised(update, steps)
    return weight


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjustment", ["match-rms-adamw", "original"])
def test_hidden_matrices_take_orthogonal_steps(nesterov: bool, adjustment: str) -> None:
    given = config(
        {
            "type": "muon",
            "weight_decay": 0.1,
            "momentum": 0.9,
            "nesterov": nesterov,
            "newton_schulz_steps": 4,
            "adjustment": adjustment,
        }
    )
    start, named = dict(weights()), weights()
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in start}
    for step in range(3):
        set_gradients(list(start.items()), step)
        for name, weight in start.items():
            assert weight.grad is not None
            gradients[name].append(weight.grad.clone())
    take_steps(make_optimizer(given, named), named, range(3))
    for name in HIDDEN:
        rows, columns = SHAPES[name]
        scale = 0.2 * max(rows, columns) ** 0.5
        if adjustment == "original":
            scale = max(1, rows / columns) ** 0.5
        wanted = muon_by_the_post(
            start[name].detach(), gradients[name], nesterov=nesterov, scale=scale, steps=4
        )
        moved = dict(named)[name].detach().double() - start[name].detach()
        # torch iterates in bfloat16, which has three digits.
        error = (moved - (wanted - start[name].detach())).norm() / moved.norm()
        assert error < 0.03


def test_all_else_takes_the_steps_of_adamw() -> None:
    shared = {"weight_decay": 0.1, "beta1": 0.8, "layer_decay": 0.7}
    named, other = weights(), weights()
    take_steps(make_optimizer(config({"type": "muon", **shared}), named), named, range(3))
    take_steps(make_optimizer(config(shared), other), other, range(3))
    for (name, one), (_, two) in zip(named, other, strict=True):
        assert torch.equal(one, two) is (name not in HIDDEN)


def test_the_parts_see_rates_that_are_set_from_outside() -> None:
    named, before = weights(), weights()
    optimizer = make_optimizer(config({"type": "muon"}), named)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(optimizer, named, range(1))
    assert all(torch.equal(one, two) for (_, one), (_, two) in zip(named, before, strict=True))


def test_the_combined_state_is_in_the_form_of_torch() -> None:
    named = weights()
    optimizer = make_optimizer(config({"type": "muon"}), named)
    assert isinstance(optimizer, Combined)
    take_steps(optimizer, named, range(1))
    state = optimizer.state_dict()
    kinds: list[set[Any]] = [set(one) for one in state["state"].values()]
    assert kinds.count({"momentum_buffer"}) == len(HIDDEN)
    assert kinds.count({"step", "exp_avg", "exp_avg_sq"}) == len(named) - len(HIDDEN)
    groups = [index for group in state["param_groups"] for index in group["params"]]
    assert groups == list(range(len(named)))


def test_a_parameter_belongs_to_one_part() -> None:
    weight = [torch.nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(ValueError, match="more than one parameter group"):
        Combined(SGD(weight), AdamW(weight))


def test_the_matrices_of_an_adapter_are_hidden() -> None:
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=0,
        )
    )  # type: ignore[no-untyped-call]
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear")
    wrapped: Any = get_peft_model(model, lora)
    named = [pair for pair in wrapped.named_parameters() if pair[1].requires_grad]
    optimizer = make_optimizer(config({"type": "muon"}, method={"type": "lora"}), named)
    assert isinstance(optimizer, Muon)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
