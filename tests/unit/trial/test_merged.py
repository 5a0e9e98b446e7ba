from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import LORA, configuration, disturb, full, load, lora, loss_of, make_gpt2, measure
from safetensors.torch import load_file

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.model.attached import AttachedModel

DORA = LORA | {"dora": True}
METHODS = [
    DORA,
    LORA | {"bias": "all"},
    LORA | {"bias": "lora_only", "rslora": True, "target_modules": "attention"},
    DORA | {"bias": "all", "target_modules": ["q_proj", "down_proj"]},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "tied": make_model(folder / "tied"),
        "untied": make_model(folder / "untied", tied=False),
        "gpt2": make_gpt2(folder / "gpt2"),
    }


def merged_by_peft(attached: AttachedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """peft's own merge, in float32, on a copy of everything."""
    merged = copy.deepcopy(attached.module).float().merge_and_unload()
    return {name: weight.to(dtype) for name, weight in merged.state_dict().items()}


def versions(attached: AttachedModel) -> list[int]:
    """How often each tensor was written in place."""
    return [weight._version for weight in attached.module.parameters()]


def check(folder: Path, config: TrainingConfig, target: Path, dtype: Any, *also: Any) -> None:
    """A merged checkpoint holds what peft would merge, under the base's names."""
    target.mkdir(exist_ok=True)
    model = load(folder, dtype, config, *also)
    with model.attach(config) as attached:
        disturb(attached)
        assert attached.kind == "full"
        before = versions(attached)
        attached.save(target)
        assert versions(attached) == before
        wanted = merged_by_peft(attached, attached.served_dtype)
    model.verify()
    saved = load_file(target / "model.safetensors")
    assert saved.keys() == load_file(folder / "model.safetensors").keys()
    for name, weight in saved.items():
        assert weight.dtype == attached.served_dtype
        torch.testing.assert_close(weight, wanted[name])
    settings = json.loads((target / "config.json").read_text())
    assert settings == json.loads((folder / "config.json").read_text()) | {"dtype": dtype}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_are_those_that_peft_merges(
    folders: dict[str, Path], tmp_path: Path, method: dict[str, Any], dtype: str
) -> None:
    check(folders["tied"], configuration(method), tmp_path, dtype)


@pytest.mark.parametrize("folder", ["untied", "gpt2"])
def test_any_architecture_is_merged(folders: dict[str, Path], tmp_path: Path, folder: str) -> None:
    check(folders[folder], lora(dora=True, bias="all"), tmp_path, "float32")


def test_adapters_of_gpt2_are_merged_as_vllm_takes_none(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    check(folders["gpt2"], lora(), tmp_path, "bfloat16")


def test_a_base_held_in_float32_is_merged_as_it_is_served(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Where full fine-tuning is searched as well."""
    check(folders["tied"], lora(dora=True), tmp_path / "both", "bfloat16", full())
    check(folders["tied"], lora(dora=True), tmp_path / "alone", "bfloat16")
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("both", "alone"))
    assert all(torch.equal(both[name], alone[name]) for name in both)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_model_scores_as_the_adapted_one(
    folders: dict[str, Path],
    tmp_path: Path,
    examples: list[EncodedExample],
    method: dict[str, Any],
) -> None:
    from transformers import AutoModelForCausalLM

    config = configuration(method)
    model = load(folders["tied"], "float32", config)
    with model.attach(config) as attached:
        disturb(attached)
        attached.save(tmp_path)
        adapted = measure(attached.module, examples)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert measure(merged, examples) == pytest.approx(adapted, abs=2e-5)
    assert measure(model.model, examples) != pytest.approx(adapted, abs=1e-3)


def test_an_untrained_adapter_is_merged_to_the_base(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """To within the last bit of bfloat16, whatever types DoRA's norms were computed in."""
    for precision in ("bf16", "pure-bf16"):
        config = configuration(DORA, compute={"precision": precision})
        with load(folders["tied"], "bfloat16", config).attach(config) as attached:
            attached.save(tmp_path)
        base = load_file(folders["tied"] / "model.safetensors")
        for name, weight in load_file(tmp_path / "model.safetensors").items():
            torch.testing.assert_close(weight, base[name].bfloat16(), rtol=2**-8, atol=0)


def test_all_adapters_of_a_study_are_served_in_one_way(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    plain, dora = lora(), lora(dora=True)
    with load(folders["tied"], "float32", plain).attach(plain) as attached:
        assert attached.kind == "lora"
    check(folders["tied"], plain, tmp_path, "float32", dora)


def test_training_goes_on_after_a_merge(
    folders: dict[str, Path], tmp_path: Path, examples: list[EncodedExample]
) -> None:
    config = lora(dora=True, bias="all")
    with load(folders["tied"], "bfloat16", config).attach(config) as attached:
        disturb(attached)
        before = loss_of(attached, examples).item()
        attached.save(tmp_path)
        assert loss_of(attached, examples).item() == before
