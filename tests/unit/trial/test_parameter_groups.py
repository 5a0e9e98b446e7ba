from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_lab import Named, config, weights
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from workers.trial.failures import InvalidTrial
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.groups import Grouping, peak_rate
from workers.trial.optimizer.layers import is_embedding

SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": False}


def qwen2(**fields: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**{**GROUPED, **fields}))  # type: ignore[no-untyped-call]


def gpt2() -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_head": 2}
    small = GPT2Config(**sizes, n_layer=3, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(small)  # type: ignore[no-untyped-call]


def neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))  # type: ignore[no-untyped-call]


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**GROUPED))  # type: ignore[no-untyped-call]


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**GROUPED))  # type: ignore[no-untyped-call]


def trainable(model: Any) -> Named:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def adapted(model: PreTrainedModel, **fields: Any) -> Named:
    return trainable(get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **fields)))


def rates_by_name(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, float]:
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    return {name: rates[id(weight)] for name, weight in named}


QWEN2_TABLE = {
    "model.embed_tokens.weight": 0.0625,
    "model.layers.0.self_attn.q_proj.weight": 0.125,
    "model.layers.0.self_attn.q_proj.bias": 0.125,
    "model.layers.1.mlp.down_proj.weight": 0.25,
    "model.layers.2.input_layernorm.weight": 0.5,
    "model.norm.weight": 1,
    "lm_head.weight": 1,
}
GPT2_TABLE = {
    "transformer.wte.weight": 0.0625,
    "transformer.wpe.weight": 0.0625,
    "transformer.h.0.attn.c_attn.weight": 0.125,
    "transformer.h.1.ln_2.bias": 0.25,
    "transformer.h.2.mlp.c_proj.weight": 0.5,
    "transformer.ln_f.weight": 1,
    "transformer.ln_f.bias": 1,
}
NEOX_TABLE = {
    "gpt_neox.embed_in.weight": 0.0625,
    "gpt_neox.layers.0.attention.dense.weight": 0.125,
    "gpt_neox.layers.1.input_layernorm.bias": 0.25,
    "gpt_neox.layers.2.mlp.dense_h_to_4h.bias": 0.5,
    "gpt_neox.final_layer_norm.weight": 1,
    "lm_head.weight": 1,
}
WITHOUT_BIASES = {name: rate for name, rate in QWEN2_TABLE.items() if "bias" not in name}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("model", "table"),
    [
        (qwen2, QWEN2_TABLE),
        (gpt2, GPT2_TABLE),
        (neox, NEOX_TABLE),
        (llama, WITHOUT_BIASES),
        (mistral, WITHOUT_BIASES),
    ],
)
def test_the_rate_falls_from_layer_to_layer(model: Any, table: dict[str, float], kind: str) -> None:
    named = trainable(model())
    given = config({"type": kind, "layer_decay": 0.5}, rate=1.0)
    rates = rates_by_name(make_optimizer(given, named), named)
    assert {name: rates[name] for name in table} == table
    assert set(rates.values()) == set(table.values())


def test_a_tied_output_layer_has_the_rate_of_the_embeddings() -> None:
    named = trainable(qwen2(tie_word_embeddings=True))
    rates = rates_by_name(make_optimizer(config({"layer_decay": 0.5}, rate=1.0), named), named)
    assert rates["model.embed_tokens.weight"] == 0.0625
    assert "lm_head.weight" not in rates


def test_adapters_have_the_rate_of_the_layer_they_sit_in() -> None:
    named = adapted(
        qwen2(), target_modules=["q_proj", "embed_tokens"], use_dora=True, bias="lora_only"
    )
    method = {"type": "lora", "plus_ratio": 8}
    given = config({"layer_decay": 0.5}, rate=1.0, method=method)
    rates = rates_by_name(make_optimizer(given, named), named)
    table = {
        "embed_tokens.lora_embedding_A.default": 0.0625,
        "embed_tokens.lora_embedding_B.default": 0.5,
        "embed_tokens.lora_magnitude_vector.default.weight": 0.0625,
        "layers.0.self_attn.q_proj.base_layer.bias": 0.125,
        "layers.0.self_attn.q_proj.lora_A.default.weight": 0.125,
        "layers.0.self_attn.q_proj.lora_B.default.weight": 1,
        "layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight": 0.125,
        "layers.2.self_attn.q_proj.lora_A.default.weight": 0.5,
        "layers.2.self_attn.q_proj.lora_B.default.weight": 4,
    }
    assert {name: rates[f"base_model.model.model.{name}"] for name in table} == table


def test_lora_plus_alone_makes_few_groups() -> None:
    named = adapted(qwen2(), target_modules="all-linear")
    given = config({"weight_decay": 0.1}, method={"type": "lora", "plus_ratio": 16})
    optimizer = make_optimizer(given, named)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.16])
    assert peak_rate(optimizer) == 0.01


def test_the_peak_is_reported_where_no_group_has_it() -> None:
    named = adapted(gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    optimizer = make_optimizer(config({"layer_decay": 0.9}, method={"type": "lora"}), named)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(0.009)
    assert peak_rate(optimizer) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "names",
    [
        ["embed_tokens.weight", "lm_head.weight"],
        ["model.layers.0.weight", "model.layers.1.weight", "visual.blocks.0.weight"],
    ],
)
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            {"layer_decay": 0.9},
            "training.optimizer.layer_decay: given 0.9; allowed: 1 for a model whose "
            "parameters' names do not show one numbered list of layers",
        ),
        (
            {"type": "muon"},
            "training.optimizer.type: given 'muon'; allowed: adamw for a model whose trained "
            "parameters' names do not show matrices in one numbered list of layers",
        ),
    ],
)
def test_layers_that_cannot_be_found_are_refused(
    optimizer: dict[str, Any], message: str, names: list[str]
) -> None:
    named = [(name, nn.Parameter(torch.zeros(2, 2))) for name in names]
    with pytest.raises(InvalidTrial) as raised:
        make_optimizer(config(optimizer), named)
    assert raised.value.message == message


def test_experts_are_part_of_their_layer() -> None:
    named = [
        (f"model.layers.{layer}.mlp.experts.{expert}.w1", nn.Parameter(torch.zeros(2, 2)))
        for layer in range(2)
        for expert in range(3)
    ]
    rates = rates_by_name(make_optimizer(config({"layer_decay": 0.5}, rate=1.0), named), named)
    assert list(rates.values()) == [0.25] * 3 + [0.5] * 3


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("transformer.word_embeddings.weight", True),
        ("model.decoder.embed_positions.weight", True),
        ("tok_embeddings.weight", True),
        ("base_model.model.embed_tokens.lora_embedding_B.default", True),
        ("embed_out.weight", False),
        ("output_embeddings.weight", False),
        ("unembed.weight", False),
        ("members.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_embeddings_are_known_by_their_names(name: str, wanted: bool) -> None:
    assert is_embedding(name) is wanted


PARTS = ["mlp.up.weight", "q.lora_A.default.weight", "q.lora_B.default.weight", "norm.bias"]
NAMES = st.lists(
    st.one_of(
        st.sampled_from(["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]),
        st.builds("model.layers.{}.{}".format, st.integers(0, 30), st.sampled_from(PARTS)),
    ),
    min_size=1,
    unique=True,
).map(lambda names: ["model.layers.7.mlp.down.weight", *names])


@settings(deadline=None, max_examples=50)
@given(
    names=NAMES,
    optimizer=st.fixed_dictionaries(
        {
            "weight_decay": st.sampled_from([0, 0.1]),
            "layer_decay": st.sampled_from([0.5, 1]),
        },
        optional={"type": st.just("muon"), "offload": st.sampled_from([0.2, 0.7, 1.0])},
    ).filter(lambda given: len(given) < 4),
)
def test_every_parameter_is_in_exactly_one_group(
    names: list[str], optimizer: dict[str, Any]
) -> None:
    named = [
        (name, nn.Parameter(torch.zeros(3 if "bias" in name or "norm" in name else (3, 2))))
        for name in names
    ]
    given = config(optimizer, method={"type": "lora", "plus_ratio": 2})
    groups = make_optimizer(given, named).param_groups
    grouped = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(grouped) == sorted(id(weight) for _, weight in named)
    factors = Grouping(given, named)
    by_id = {id(weight): (name, weight) for name, weight in named}
    for group in groups:
        for weight in group["params"]:
            name, _ = by_id[id(weight)]
            assert group["lr"] == pytest.approx(0.01 * factors.rate_factor(name))
            assert group["weight_decay"] == (optimizer["weight_decay"] if weight.ndim > 1 else 0)


def test_groups_come_in_the_same_order_each_time() -> None:
    given = config({"layer_decay": 0.9, "weight_decay": 0.1})
    one, other = (make_optimizer(given, weights()).param_groups for _ in range(2))
    shapes = [[[weight.shape for weight in group["params"]] for group in it] for it in (one, other)]
    assert shapes[0] == shapes[1]
    assert [group["lr"] for group in one] == [group["lr"] for group in other]
