from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import configuration, disturb, full, load, lora, make_gpt2, measure, train
from safetensors.torch import load_file

from hpo.spec.errors import InputError
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.failures import InvalidTrial
from workers.trial.model.adapter import adapted_layers

QLORA = lora(base="4bit")
INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of 64 weights shares a scale: these matrices have several in a row."""
    return make_model(tmp_path_factory.mktemp("wide"), hidden_size=128)


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_bitsandbytes_that_is_missing_is_told_of_at_once(base: Path) -> None:
    with pytest.raises(InputError, match=r"method\.base: given '4bit', .* not installed"):
        load(base, "bfloat16", QLORA)


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32", "pure-bf16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_adapter_is_trained_on_a_base_in_4_bits(
    wide: Path, examples: list[EncodedExample], precision: str, dtype: Any
) -> None:
    """The same each time: the layers would convert their biases in place."""
    model = load(wide, dtype, QLORA)
    config = configuration(QLORA.method.model_dump(), compute={"precision": precision})
    trajectories = []
    for _ in range(2):
        with model.attach(config) as attached:
            layers = dict(adapted_layers(attached.base))
            assert len(layers) == 14
            stored = {layer.get_base_layer().weight.dtype for layer in layers.values()}
            assert stored == {torch.uint8}
            trajectories.append(train(attached, examples))
        model.verify()
    assert trajectories[0] == trajectories[1]
    assert trajectories[0][-1] < trajectories[0][0] + 1


@needs_bitsandbytes
def test_a_base_in_4_bits_is_near_the_plain_one(wide: Path, examples: list[EncodedExample]) -> None:
    plain = measure(load(wide, "float32", lora()).model, examples)
    rounded = measure(load(wide, "float32", QLORA).model, examples)
    assert rounded != plain
    assert rounded == pytest.approx(plain, abs=0.1)


@needs_bitsandbytes
def test_both_bases_are_held_where_both_are_searched(
    wide: Path, examples: list[EncodedExample], tmp_path: Path
) -> None:
    model = load(wide, "bfloat16", QLORA, lora(), full())
    alone = load(wide, "bfloat16", QLORA)
    for config in (full(), lora()):
        with model.attach(config) as attached:
            train(attached, examples)
        model.verify()
    with model.attach(QLORA) as one, alone.attach(QLORA) as other:
        assert one.base is not model.model
        assert train(one, examples) == train(other, examples)
        one.save(tmp_path)
        assert one.kind == "lora"
    assert (tmp_path / "adapter_model.safetensors").is_file()
    model.verify()


@needs_bitsandbytes
def test_an_adapter_of_4_bits_is_merged_into_the_plain_base(wide: Path, tmp_path: Path) -> None:
    """Where another trial of the study must be merged."""
    model = load(wide, "float32", QLORA, lora(dora=True))
    with model.attach(QLORA) as attached:
        disturb(attached)
        attached.save(tmp_path)
        assert attached.kind == "full"
        layer = dict(adapted_layers(attached.base))["model.layers.1.mlp.up_proj"]
        change = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    saved, base = (load_file(folder / "model.safetensors") for folder in (tmp_path, wide))
    assert saved.keys() == base.keys()
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(saved[name], base[name] + change)
    assert torch.equal(saved["model.norm.weight"], base["model.norm.weight"])
    model.verify()


@needs_bitsandbytes
def test_transposed_layers_are_merged_as_they_lie(tmp_path: Path) -> None:
    """GPT-2's, which are turned round for 4 bits; one of them is square."""
    folder = make_gpt2(tmp_path / "gpt2", n_embd=64)
    with load(folder, "float32", QLORA, lora()).attach(QLORA) as attached:
        disturb(attached)
        attached.save(tmp_path)
        layers = dict(adapted_layers(attached.base))
    saved, base = (load_file(where / "model.safetensors") for where in (tmp_path, folder))
    for name in ("transformer.h.0.attn.c_proj", "transformer.h.1.mlp.c_fc"):
        layer = layers[name]
        change = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        stored = f"{name}.weight".removeprefix("" if f"{name}.weight" in saved else "transformer.")
        torch.testing.assert_close(saved[stored], base[stored] + change.T)


@needs_bitsandbytes
def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    model = load(make_gpt2(tmp_path, n_embd=64), "bfloat16", QLORA)
    with (
        pytest.raises(InvalidTrial, match=r"method\.base: given '4bit'; allowed: model"),
        model.attach(QLORA),
    ):
        pass
