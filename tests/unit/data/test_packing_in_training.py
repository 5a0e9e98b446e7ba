from __future__ import annotations

from typing import Any

import pytest
import torch

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.feeder import Feeder
from workers.data.batches.loss import token_losses
from workers.data.batches.separation import separates_packed
from workers.data.tokens.encoded import EncodedExample

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": SIZES,
    "mistral": SIZES | {"sliding_window": 4},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def model(kind: str, attention: str, **sizes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    causal: Any = AutoModelForCausalLM
    config = AutoConfig.for_model(kind, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = causal.from_config(config, attn_implementation=attention)
    return made.eval()


def config(**more: Any) -> TrainingConfig:
    given: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}, "max_batches": 1}
    return TrainingConfig.model_validate(
        given | {"effective_batch_size": 1, "max_length": 12} | more
    )


def example(length: int, learned: tuple[tuple[int, int], ...], weight: float) -> EncodedExample:
    ids = torch.randint(1, 64, (length,), generator=torch.Generator().manual_seed(length))
    return EncodedExample(ids.tolist(), learned, weight)


UNEVEN = [
    example(7, ((0, 7),), 0.5),
    example(12, ((3, 5), (8, 12)), 1.0),
    example(5, ((0, 1), (2, 5)), 0.25),
    example(2, ((0, 2),), 2.0),
    example(9, ((4, 9),), 1.0),
    example(3, ((1, 3),), 0.0),
    example(4, ((1, 4),), 0.75),
]
CASES = {
    "uneven": UNEVEN,
    "alone": UNEVEN[:1],
    "one alone that fills a row": UNEVEN[1:2],
    "rows exactly full": [UNEVEN[0], UNEVEN[2], UNEVEN[4], UNEVEN[5]],
}


def gradients(made: Any, examples: list[EncodedExample], **how: Any) -> tuple[Any, list[Any]]:
    """Loss and gradients of a step that is weighted and divided as a whole."""
    made.zero_grad()
    divisor = sum(one.weight * one.counted for one in examples) or 1.0
    feeder = Feeder(config(**how), pad_id=0, device=CPU)
    total = torch.zeros(())
    for batch in feeder.batches(examples, feeder.rows(examples), 2):
        losses, _ = token_losses(made, batch, weighted=True)
        share: Any = losses / divisor
        share.backward()
        total += share.detach()
    return total, [weight.grad.clone() for weight in made.parameters()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_packed_equals_unpacked(kind: str, attention: str) -> None:
    made = model(kind, attention, **MODELS[kind])
    for name, examples in CASES.items():
        wanted = gradients(made, examples)
        assert wanted[0] > 0
        for how in ({}, {"padding": "max-length"}):
            got = gradients(made, examples, packing=True, **how)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=name)
        padded = gradients(made, examples, padding="max-length")
        torch.testing.assert_close(padded, wanted, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_models_that_keep_examples_apart_are_allowed(kind: str, attention: str) -> None:
    made = model(kind, attention, **MODELS[kind])
    assert separates_packed(made, config(), CPU)
    half = made.to(torch.bfloat16)
    assert separates_packed(half, config(max_length=2, padding="max-length"), CPU)


@pytest.mark.parametrize("kind", ["falcon", "opt"])
def test_models_that_mix_examples_are_known(kind: str) -> None:
    sizes = {name: SIZES[name] for name in SIZES if name != "num_key_value_heads"}
    if kind == "opt":
        sizes |= {"ffn_dim": 48, "word_embed_proj_dim": 32}
    assert not separates_packed(model(kind, "sdpa", **sizes), config(), CPU)
