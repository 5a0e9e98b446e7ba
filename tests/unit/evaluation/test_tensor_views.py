"""Rows of fused and padded matrices under the names of a transformers model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from workers.evaluation.engines.views import (
    NotPlain,
    no_views_of,
    put_views,
    require_equal,
    samples_of,
    views_of,
)

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.0."


def make(*, tied: bool = False, architecture: str = "qwen2") -> Any:
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    torch.manual_seed(0)
    config: Any = Qwen2Config(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    if architecture == "gpt2":
        config = GPT2Config(vocab_size=70, n_embd=32, n_layer=1, n_head=2)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model.float().eval()


def laid_out(model: Any) -> Tensors:
    """A model's tensors the way vLLM has them: fused, and embeddings padded."""
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    for fused, parts in {
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    }.items():
        for first in [name for name in tensors if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            tensors[first.replace(parts[0], fused)] = torch.cat([tensors.pop(n) for n in names])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = torch.cat([tensors[name], torch.zeros(58, 32)])
    return tensors


def engine_of(tensors: Tensors) -> nn.Module:
    """A module with the tensors as parameters under their names."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    return root


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_parameter_is_a_view(tied: bool, wrapped: bool) -> None:
    model, wanted = make(tied=tied), make(tied=tied)
    tensors = laid_out(model)
    if wrapped:
        # As vLLM does where adapters may come.
        tensors = {name.replace("_proj.", "_proj.base_layer."): t for name, t in tensors.items()}
    engine = engine_of(tensors)
    views = views_of(engine, model)
    require_equal(views, model)
    put_views(model, views)
    held = {parameter.untyped_storage().data_ptr() for parameter in engine.parameters()}
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} == held
    assert not any(parameter.requires_grad for parameter in model.parameters())
    state = model.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.state_dict().items())


def test_a_view_follows_what_is_written_in_place() -> None:
    model = make()
    engine = engine_of(laid_out(model))
    put_views(model, views_of(engine, model))
    for parameter in engine.parameters():
        parameter.data.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in model.parameters())


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def change(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, to(tensors[name]))


def emptied(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0)


QKV = f"{LAYER}self_attn.qkv_proj."


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (drop(f"{QKV}bias"), r"vLLM has no model.layers.0.self_attn.k_proj.bias"),
        (drop("lm_head.weight"), "vLLM has no lm_head.weight"),
        (
            lambda tensors: tensors.update({f"{LAYER}self_attn.q_norm.weight": torch.ones(8)}),
            r"holds model.layers.0.self_attn.q_norm.weight, which transformers does not have",
        ),
        # Packed weights are elsewhere.
        (change(f"{QKV}weight", emptied), r"qkv_proj.weight as torch.float32 \[0\], .* \[32, 32\]"),
        (
            change("lm_head.weight", lambda t: t.t().contiguous()),
            "lm_head.weight as .*32, 128",
        ),
        (change("model.norm.weight", lambda t: t.to(torch.bfloat16)), "norm.weight as .*bfloat16"),
        (change(f"{QKV}bias", lambda t: t.to(torch.float64)), "qkv_proj.bias as torch.float64"),
        # Other rows, or other values.
        (change(f"{QKV}weight", lambda t: t.flip(0)), "q_proj.weight holds other values"),
        (change("lm_head.weight", lambda t: t.roll(1, 0)), "lm_head.weight holds other values"),
        (change("model.norm.weight", lambda t: t * 1.001), "norm.weight holds other values"),
    ],
    ids=[
        "no-bias",
        "no-output-layer",
        "unknown-tensor",
        "packed",
        "transposed",
        "other-type",
        "wider-bias",
        "flipped",
        "rolled",
        "scaled",
    ],
)
def test_another_layout_is_found_out(alter: Callable[[Tensors], None], message: str) -> None:
    model = make()
    tensors = laid_out(model)
    alter(tensors)
    with pytest.raises(NotPlain, match=message):
        require_equal(views_of(engine_of(tensors), model), model)


def test_architectures_are_declared() -> None:
    assert all(no_views_of(known) is None for known in ("llama", "mistral", "qwen2"))
    reason = "gpt2 model is not known .llama, mistral, qwen2 are"
    with pytest.raises(NotPlain, match=reason):
        views_of(nn.Module(), make(architecture="gpt2"))


def test_other_weights_have_other_samples() -> None:
    model = make()
    views = views_of(engine_of(laid_out(model)), model)
    before = samples_of(views)
    assert torch.equal(samples_of(views), before)
    for view in views.values():
        kept = view.clone()
        view.mul_(1.001).add_(1e-6)
        assert not torch.equal(samples_of(views), before)
        view.copy_(kept)
    assert torch.equal(samples_of(views), before)
