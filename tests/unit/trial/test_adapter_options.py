from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import (
    LORA,
    change_config,
    configuration,
    disturb,
    full,
    load,
    lora,
    loss_of,
    make_gpt2,
    train,
)

from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.failures import InvalidTrial
from workers.trial.model.adapter import adapted_layers
from workers.trial.model.attached import AttachedModel
from workers.trial.model.needs import ModelNeeds


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gpt2(tmp_path_factory.mktemp("gpt2"))


def adapted(attached: AttachedModel) -> set[str]:
    return {name for name, _ in adapted_layers(attached.base)}


def of_layers(*names: str) -> set[str]:
    return {f"model.layers.{layer}.{name}" for layer in range(2) for name in names}


ATTENTION = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]


def test_attention_alone_gets_adapters(base: Path) -> None:
    with load(base, "float32", lora()).attach(lora(target_modules="attention")) as attached:
        assert adapted(attached) == of_layers(*ATTENTION)


def test_attention_of_gpt2_is_not_its_mlp(gpt2: Path) -> None:
    """Both have a layer `c_proj`."""

    def names(*inner: str) -> set[str]:
        return {f"transformer.h.{layer}.{name}" for layer in range(2) for name in inner}

    model = load(gpt2, "float32", lora())
    with model.attach(lora(target_modules="attention")) as attached:
        assert adapted(attached) == names("attn.c_attn", "attn.c_proj")
    with model.attach(lora(target_modules=["c_proj"])) as attached:
        assert adapted(attached) == names("attn.c_proj", "mlp.c_proj")
    with model.attach(lora(target_modules=["mlp.c_proj"])) as attached:
        assert adapted(attached) == names("mlp.c_proj")
    with model.attach(lora()) as attached:
        assert adapted(attached) == names("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    model.verify()


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"rank": 4, "alpha": 8}, 2.0),
        ({"rank": 4, "alpha": None}, 8.0),
        ({"rank": 4, "alpha": None, "alpha_ratio": 0.5}, 0.5),
        ({"rank": 4, "alpha": 8, "rslora": True}, 4.0),
        ({"rank": 8, "alpha": 8, "rslora": True}, 8 / math.sqrt(8)),
    ],
)
def test_an_adapter_is_scaled_by_alpha_and_rank(
    base: Path, options: dict[str, Any], scale: float
) -> None:
    config = lora(**options)
    with load(base, "float32", config).attach(config) as attached:
        disturb(attached)
        layer = attached.base.model.layers[1].mlp.up_proj
        inputs = torch.randn(3, 64)
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        wanted = inputs @ (layer.base_layer.weight + scale * up @ down).T
        torch.testing.assert_close(layer(inputs), wanted)


def test_dora_trains_magnitude_and_direction_apart(base: Path) -> None:
    """Equation 5 of arXiv:2402.09353: W' = m (W + BA) / ‖W + BA‖, row by row."""
    config = lora(dora=True)
    with load(base, "float32", config).attach(config) as attached:
        disturb(attached)
        layer = attached.base.model.layers[0].self_attn.q_proj
        inputs = torch.randn(3, 64)
        direction = layer.base_layer.weight + 2 * (
            layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        )
        magnitude = layer.lora_magnitude_vector["default"].weight
        assert magnitude.shape == (64,)
        weight = magnitude[:, None] * direction / direction.pow(2).sum(1, keepdim=True).sqrt()
        wanted = inputs @ weight.T + layer.base_layer.bias
        torch.testing.assert_close(layer(inputs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [LORA, LORA | {"dora": True}, LORA | {"bias": "all"}])
def test_a_trial_begins_at_the_base(
    base: Path, gpt2: Path, examples: list[EncodedExample], method: dict[str, Any]
) -> None:
    """Under autocast, where peft's own magnitudes would be rounded."""
    for folder in (base, gpt2):
        model = load(folder, "bfloat16", lora(), configuration(method))
        with model.attach(lora(target_modules=[_any_layer(folder, gpt2)])) as attached:
            attached.module.eval()
            wanted = loss_of(attached, examples).item()
        with model.attach(configuration(method)) as attached:
            attached.module.eval()
            assert loss_of(attached, examples).item() == pytest.approx(wanted, abs=2e-4)


def _any_layer(folder: Path, gpt2: Path) -> str:
    return "c_fc" if folder == gpt2 else "up_proj"


def biases(attached: AttachedModel) -> set[str]:
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name, _ in attached.trainable
        if "lora_" not in name
    }


def test_biases_are_trained_where_asked(base: Path, gpt2: Path) -> None:
    queries = {"target_modules": ["q_proj", "up_proj"]}
    model = load(base, "float32", lora())
    with model.attach(lora()) as attached:
        assert biases(attached) == set()
    with model.attach(lora(bias="lora_only", **queries)) as attached:
        assert biases(attached) == of_layers("self_attn.q_proj.bias")
    with model.attach(lora(bias="all", **queries)) as attached:
        assert biases(attached) == of_layers(*[f"self_attn.{name}_proj.bias" for name in "qkv"])
    with load(gpt2, "float32", lora()).attach(lora(bias="all")) as attached:
        assert {"transformer.ln_f.bias", "transformer.h.1.mlp.c_fc.bias"} < biases(attached)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_not_the_base_s_own(
    base: Path, gpt2: Path, examples: list[EncodedExample], bias: str, dtype: Any
) -> None:
    config = lora(bias=bias)
    for folder in (base, gpt2):
        model = load(folder, dtype, config)
        with model.attach(config) as attached:
            assert {weight.dtype for _, weight in attached.trainable} == {torch.float32}
            before = attached.state_dict()
            train(attached, examples)
            after = attached.state_dict()
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert any(name.endswith("bias") for name in changed)
        model.verify()


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_a_model_without_biases_cannot_train_them(tmp_path: Path, bias: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    llama: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    llama.save_pretrained(tmp_path)
    model = load(tmp_path, "float32", lora())
    with (
        pytest.raises(InvalidTrial, match=rf"method.bias: given '{bias}'; allowed: none"),
        model.attach(lora(bias=bias)),
    ):
        pass
    model.verify()


def test_layers_without_biases_cannot_train_them(base: Path) -> None:
    config = lora(bias="lora_only", target_modules=["up_proj"])
    with (
        pytest.raises(InvalidTrial, match=r"method.bias: given 'lora_only'"),
        load(base, "float32", lora()).attach(config),
    ):
        pass


def test_the_seed_of_the_initialisation_may_differ_from_the_trial_s(base: Path) -> None:
    model = load(base, "float32", lora())

    def first(**seeds: Any) -> torch.Tensor:
        with model.attach(configuration(LORA, **seeds)) as attached:
            return attached.state_dict()[attached.trainable[0][0]]

    assert torch.equal(first(seed=3), first(seed=4, seeds={"initialisation": 3}))
    assert torch.equal(first(seed=0), first(seed=4, seeds={"initialisation": 0}))
    assert not torch.equal(first(seed=3), first(seed=4))


RDROP = {"rdrop": {"alpha": 1.0}}


@pytest.mark.parametrize("method", [{"type": "full"}, LORA, LORA | {"dora": True}])
def test_rdrop_needs_dropout(base: Path, method: dict[str, Any]) -> None:
    config = configuration(method, regularisation=RDROP)
    model = load(base, "float32", config)
    with (
        pytest.raises(InvalidTrial, match=r"regularisation\.rdrop: .* without dropout"),
        model.attach(config),
    ):
        pass
    model.verify()


def test_any_dropout_serves_rdrop(tmp_path: Path, base: Path, gpt2: Path) -> None:
    dropped = configuration(LORA | {"dropout": 0.1}, regularisation=RDROP)
    whole = configuration({"type": "full"}, regularisation=RDROP)
    attention = change_config(make_model(tmp_path), attention_dropout=0.1)
    for folder, config in ((base, dropped), (attention, whole), (gpt2, whole)):
        with load(folder, "float32", config).attach(config):
            pass


def test_the_needs_of_a_space_are_those_of_its_options_taken_freely() -> None:
    needs = ModelNeeds.of([full(precision="pure-bf16"), lora(), lora(bias="all")])
    assert needs == ModelNeeds(frozenset({"full", "lora"}), in_place=True, merged=True)
    assert not ModelNeeds.of([full(precision="pure-bf16")]).trains_base
    assert not ModelNeeds.of([lora(rslora=True, rank=512)]).merged
    assert ModelNeeds.of([lora(dora=True)]).merged
    four = ModelNeeds.of([lora(base="4bit")])
    assert (four.plain, four.four_bit) == (False, True)
    assert ModelNeeds.of([lora(base="4bit"), lora()]).plain
    assert ModelNeeds.of([full(), full(compile=True)]).compiled
    assert ModelNeeds.of([full(), full(deterministic=True)]).deterministic


def test_what_was_not_prepared_for_is_refused(base: Path) -> None:
    """An error of the program, not of the trial."""
    model = load(base, "float32", full(precision="pure-bf16"))
    for config in (lora(), full(), full(compile=True, precision="pure-bf16"), lora(base="4bit")):
        with pytest.raises(ValueError, match="on a model for"), model.attach(config):
            pass
