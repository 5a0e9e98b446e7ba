from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_lab import CPU, configuration, load, losses, packed, parts, total

from workers.data.batches.collate import Batch
from workers.data.batches.loss import evaluation_loss, hidden_states
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.objective.neftune import noisy_embeddings

ALPHA = 5.0


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load(base)


def noise_of(model: Any, batch: Batch) -> torch.Tensor:
    """What the first layer sees beyond the embeddings: (rows, longest, hidden size)."""
    seen: list[torch.Tensor] = []
    layer = model.model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    try:
        with noisy_embeddings(model, batch, ALPHA):
            hidden_states(model, batch)
        hidden_states(model, batch)
    finally:
        hook.remove()
    return seen[0] - seen[1]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_scale_is_of_each_examples_own_length(
    model: Any, examples: list[EncodedExample], layout: str
) -> None:
    torch.manual_seed(0)
    few = examples[:12]
    (batch,) = parts(few, 12) if layout == "padded" else packed(few, 64, 12)
    noise = noise_of(model, batch)
    assert not noise[batch.documents == -1].any()
    relative = []
    for document, example in enumerate(batch.examples):
        drawn = noise[batch.documents == document]
        assert drawn.shape == (example.length, 64)
        bound = ALPHA / math.sqrt(example.length * 64)
        assert drawn.abs().max().item() <= bound * (1 + 1e-5)
        assert drawn.abs().max().item() > 0.9 * bound
        relative.append(drawn.flatten() / bound)
    uniform = torch.cat(relative)
    # Mean and variance of the uniform distribution over ±1, in standard errors.
    assert abs(uniform.mean().item()) < 4 / math.sqrt(3 * len(uniform))
    assert abs(uniform.var().item() - 1 / 3) < 4 * math.sqrt(4 / 45 / len(uniform))


def test_noise_changes_the_loss_and_comes_from_the_generator(
    model: Any, examples: list[EncodedExample]
) -> None:
    few = examples[:4]
    config = configuration({"neftune": {"alpha": ALPHA}})

    def objective(seed: int) -> float:
        torch.manual_seed(seed)
        return total(losses(model, config, few, parts(few, 2))).item()

    plain = total(losses(model, configuration(), few, parts(few, 2))).item()
    assert objective(1) == objective(1)
    assert len({plain, objective(1), objective(2)}) == 3
    assert objective(1) == pytest.approx(plain, rel=0.2)


def test_evaluation_has_no_noise_and_no_hook_stays(
    model: Any, examples: list[EncodedExample]
) -> None:
    def evaluated() -> float:
        return evaluation_loss(model, examples, pad_id=0, tokens_per_batch=512, device=CPU).total

    before = evaluated()
    few = examples[:4]
    losses(model, configuration({"neftune": {"alpha": ALPHA}}), few, parts(few, 4))
    assert evaluated() == before
    with pytest.raises(RuntimeError, match="stop"), noisy_embeddings(model, parts(few, 4)[0], 1):
        raise RuntimeError("stop")
    assert not model.get_input_embeddings()._forward_hooks


def test_embeddings_learn_through_the_noise(model: Any, examples: list[EncodedExample]) -> None:
    few = examples[:4]
    config = configuration({"neftune": {"alpha": 1e-6}})
    embeddings = model.get_input_embeddings().weight
    noisy, plain = (
        torch.autograd.grad(total(losses(model, each, few, parts(few, 4))), embeddings)[0]
        for each in (config, configuration())
    )
    torch.testing.assert_close(noisy, plain, rtol=1e-3, atol=1e-6)


def test_a_wrapped_model_has_noise_too(base: Path, examples: list[EncodedExample]) -> None:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(load(base), LoraConfig(target_modules="all-linear"))
    few = examples[:4]
    plain = total(losses(wrapped, configuration(), few, parts(few, 4)))
    noisy = total(losses(wrapped, configuration({"neftune": {"alpha": 5}}), few, parts(few, 4)))
    assert plain.item() != noisy.item()
