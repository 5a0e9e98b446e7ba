from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import (
    LORA,
    change_config,
    configuration,
    full,
    load,
    lora,
    loss_of,
    make_gpt2,
    measure,
    train,
)

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.failures import InvalidTrial
from workers.trial.model.attached import AttachedModel
from workers.trial.model.reusable import ReusableModel

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def types(attached: AttachedModel) -> tuple[torch.dtype, set[torch.dtype]]:
    """Of what is trained, and of what is not."""
    trained = {weight.dtype for _, weight in attached.trainable}
    frozen = {w.dtype for w in attached.module.parameters() if not w.requires_grad}
    assert len(trained) == 1
    return trained.pop(), frozen


@pytest.mark.parametrize(
    ("served", "precision", "trained", "frozen", "autocast"),
    [
        ("float32", "auto", F32, F32, None),
        ("bfloat16", "auto", F32, BF16, BF16),
        ("float16", "auto", F32, F16, BF16),
        ("float32", "bf16", F32, F32, BF16),
        ("bfloat16", "bf16", F32, BF16, BF16),
        ("bfloat16", "fp16", F32, BF16, F16),
        ("float16", "fp16", F32, F16, F16),
        ("bfloat16", "fp32", F32, F32, None),
        ("bfloat16", "pure-bf16", BF16, BF16, None),
        ("float32", "pure-bf16", BF16, BF16, None),
    ],
)
def test_types_of_each_precision(
    base: Path,
    examples: list[EncodedExample],
    served: Any,
    precision: str,
    trained: torch.dtype,
    frozen: torch.dtype,
    autocast: torch.dtype | None,
) -> None:
    compute = {"precision": precision}
    adapted, whole = configuration(LORA, compute=compute), full(**compute)
    model = load(base, served, adapted, whole)
    with model.attach(whole) as attached:
        assert types(attached) == (trained, set())
        assert attached.autocast_dtype == autocast
        losses = train(attached, examples)
    model.verify()
    with model.attach(adapted) as attached:
        assert types(attached) == (trained, {frozen})
        assert attached.autocast_dtype == autocast
        losses += train(attached, examples)
    model.verify()
    assert all(torch.tensor(losses).isfinite())


def test_pure_bfloat16_trains_copies_and_keeps_ties(
    base: Path, examples: list[EncodedExample], tmp_path: Path
) -> None:
    config = full(precision="pure-bf16")
    for also in ([], [full()]):
        model = load(base, "bfloat16", config, *also)
        own = [weight.data_ptr() for weight in model.model.parameters()]
        before = measure(model.model, examples)
        with model.attach(config) as attached:
            assert not {weight.data_ptr() for _, weight in attached.trainable} & set(own)
            causal: Any = attached.base
            assert causal.lm_head.weight is causal.model.embed_tokens.weight
            train(attached, examples)
            attached.save(tmp_path)
        assert [weight.data_ptr() for weight in model.model.parameters()] == own
        assert measure(model.model, examples) == before
        model.verify()


def test_a_frozen_base_has_the_values_it_is_served_with(base: Path) -> None:
    """Whatever it is held in, and whatever else is searched."""
    config = configuration(LORA, compute={"precision": "fp32"})
    for also in ([], [full()]):
        with load(base, "bfloat16", config, *also).attach(config) as attached:
            weight = attached.base.get_parameter("model.norm.weight")
            assert weight.dtype == F32
            assert torch.equal(weight, weight.bfloat16().float())


def test_switches_of_the_process_are_the_trial_s_inside(base: Path) -> None:
    def switches() -> tuple[str, bool, bool]:
        return (
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
        )

    model, before = load(base, "float32", full()), switches()
    with model.attach(full(tf32=True, deterministic=True)):
        assert switches() == ("high", True, True)
    assert switches() == before
    with pytest.raises(KeyboardInterrupt), model.attach(full(deterministic=True)):
        raise KeyboardInterrupt
    assert switches() == before
    torch.set_float32_matmul_precision("medium")
    try:
        with model.attach(full()):
            assert switches() == ("highest", False, False)
        assert switches()[0] == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])


@contextmanager
def passes_through(model: ReusableModel, layer: str) -> Iterator[list[int]]:
    """Counts the forward passes of a layer that begin; a second one ends where it can."""
    passes: list[int] = []
    hook = model.model.get_submodule(layer).register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        hook.remove()


@pytest.mark.parametrize("method", [{"type": "full"}, LORA | {"dropout": 0.3}])
def test_gradient_checkpointing_computes_again_with_the_same_dropout(
    tmp_path: Path, examples: list[EncodedExample], method: dict[str, Any]
) -> None:
    folder = change_config(make_model(tmp_path), attention_dropout=0.3)
    model = load(folder, "float32", configuration(method))

    def gradients(**compute: Any) -> tuple[float, list[torch.Tensor], int]:
        config = configuration(method, compute=compute)
        with (
            model.attach(config) as attached,
            passes_through(model, "model.layers.1") as passes,
        ):
            torch.manual_seed(7)
            loss = loss_of(attached, examples)
            loss.backward()  # type: ignore[no-untyped-call]
            found = [w.grad.clone() for _, w in attached.trainable if w.grad is not None]
            return loss.item(), found, len(passes)

    loss, plain, once = gradients()
    again, checkpointed, twice = gradients(gradient_checkpointing=True)
    assert (once, twice) == (1, 2)
    assert again == loss
    assert len(plain) == len(checkpointed) > 0
    assert all(torch.equal(one, other) for one, other in zip(plain, checkpointed, strict=True))
    assert gradients()[2] == 1


def test_attention_is_computed_as_the_trial_says(
    base: Path, examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(base, "float32", full(), lora())
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(1)
        return attend(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    losses = {}
    for method in ({"type": "full"}, LORA):
        for attention, used in (("eager", False), ("sdpa", True), ("auto", True)):
            calls.clear()
            with model.attach(configuration(method, compute={"attention": attention})) as attached:
                losses[attention] = loss_of(attached, examples).item()
            assert bool(calls) is used
            assert model.model.config._attn_implementation == "sdpa"
        assert losses["auto"] == losses["sdpa"] == pytest.approx(losses["eager"], abs=1e-5)
    model.verify()


def test_attention_that_is_not_there_is_refused(base: Path) -> None:
    config = full(attention="flash_attention_2")
    model = load(base, "float32", full())
    with (
        pytest.raises(InvalidTrial, match=r"attention: given 'flash_attention_2'; allowed: auto"),
        model.attach(config),
    ):
        pass
    with model.attach(full()) as attached:
        assert attached.base.config._attn_implementation == "sdpa"


def test_what_a_model_cannot_is_refused(tmp_path: Path) -> None:
    """Falcon's attention is chosen when it is built."""
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    falcon: Any = FalconForCausalLM(config)
    falcon.save_pretrained(tmp_path)
    model = load(tmp_path, "float32", full())
    with (
        pytest.raises(InvalidTrial, match=r"attention: given 'eager'; allowed: auto"),
        model.attach(full(attention="eager")),
    ):
        pass
    model.verify()


OPTIONS: dict[str, list[Any]] = {
    "method": [
        {"type": "full"},
        LORA | {"dropout": 0.2},
        LORA | {"dora": True, "target_modules": "attention"},
        LORA | {"bias": "all", "rslora": True, "rank": 2},
    ],
    "precision": ["auto", "bf16", "fp32", "pure-bf16"],
    "attention": ["auto", "eager"],
    "gradient_checkpointing": [False, True],
    "deterministic": [False, True],
}
ENDS: list[type[BaseException]] = [InterruptedError, KeyboardInterrupt, FloatingPointError]


def drawn(draw: random.Random) -> TrainingConfig:
    chosen = {name: draw.choice(options) for name, options in OPTIONS.items()}
    return configuration(chosen.pop("method"), compute=chosen, seed=draw.randrange(99))


def ended(model: ReusableModel, config: TrainingConfig, error: type[BaseException] | None) -> None:
    """A trial that ends well, by NaN, or by an exception at any point."""
    with model.attach(config) as attached:
        if error is FloatingPointError:
            with torch.no_grad():
                for _, weight in attached.trainable:
                    weight.fill_(float("nan"))
        loss_of(attached, SHORT).backward()  # type: ignore[no-untyped-call]
        if error is not None:
            raise error
        train(attached, SHORT * 3)


SHORT = [EncodedExample.completion_only(range(row, row + 9), 3) for row in range(4)]


@pytest.mark.parametrize("folder", ["qwen2", "gpt2"])
def test_no_mixture_of_options_leaves_anything_behind(tmp_path: Path, folder: str) -> None:
    """Losses after twelve trials of all kinds are those on a model that is fresh, to the bit."""
    maker: Any = {"qwen2": make_model, "gpt2": make_gpt2}[folder]
    made = maker(tmp_path)
    draw = random.Random(folder)
    everything = [drawn(draw) for _ in range(40)]
    worn = load(made, "bfloat16", *everything)
    for config in everything[:12]:
        error = draw.choice([None, *ENDS])
        if error is None:
            ended(worn, config, None)
        else:
            with pytest.raises(error):
                ended(worn, config, error)
        worn.verify()
    fresh = load(made, "bfloat16", *everything)
    assert worn.fingerprint() == fresh.fingerprint()
    for config in everything[12:18]:
        with worn.attach(config) as one, fresh.attach(config) as other:
            assert train(one, SHORT * 3) == train(other, SHORT * 3)
