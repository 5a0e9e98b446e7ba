from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from hpo.spec.errors import InputError
from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from workers.data.batches.loss import evaluation_loss
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.failures import BaseModelChanged, InvalidTrial
from workers.trial.model.attached import AttachedModel
from workers.trial.model.needs import Kind, ModelNeeds
from workers.trial.model.reusable import ReusableModel

CPU = torch.device("cpu")


def configuration(method: dict[str, Any], **fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "method": method,
            "optimizer": {"learning_rate": 1e-3},
            "effective_batch_size": 4,
            "max_batches": 1,
            **fields,
        }
    )


FULL = configuration({"type": "full"})
LORA = configuration({"type": "lora", "rank": 4, "alpha": 8, "dropout": 0.1})
METHODS = [FULL, LORA]


def load(folder: Path, dtype: Literal["float32", "bfloat16"], *methods: Kind) -> ReusableModel:
    spec, needs = ModelSpec(path=str(folder), dtype=dtype), ModelNeeds(frozenset(methods))
    return ReusableModel.load(spec, device=CPU, needs=needs)


def measure(model: Any, examples: list[EncodedExample]) -> float:
    return evaluation_loss(model, examples, pad_id=0, tokens_per_batch=512, device=CPU).mean


def disturb(attached: AttachedModel) -> None:
    """Change whatever a trial may change, and more."""
    with torch.no_grad():
        for _, weight in attached.trainable:
            weight.add_(0.1)
            weight.grad = torch.ones_like(weight)
    attached.base.config.use_cache = False
    attached.base.generation_config.max_new_tokens = 7
    attached.base.model.layers[0].register_forward_hook(lambda *_: None)
    attached.base.forward = lambda *_: None
    attached.base.gradient_checkpointing_enable()


def anatomy(model: Any) -> list[object]:
    """Everything about a model that a trial could leave behind."""
    modules = [
        (name, type(module), module.training, sorted(vars(module)), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]
    weights = [
        (name, id(weight), weight.requires_grad, weight.grad, weight.dtype)
        for name, weight in model.named_parameters()
    ]
    checkpointing = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    settings = (model.config.to_dict(), model.generation_config.to_dict())
    return [modules, weights, checkpointing, settings]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_trial_leaves_nothing_behind(
    base: Path,
    examples: list[EncodedExample],
    method: TrainingConfig,
    dtype: Literal["float32", "bfloat16"],
) -> None:
    reusable = load(base, dtype, "full", "lora")
    before, loss = anatomy(reusable.model), measure(reusable.model, examples)
    with reusable.attach(method) as attached:
        disturb(attached)
    assert anatomy(reusable.model) == before
    reusable.verify()
    assert measure(reusable.model, examples) == loss


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_leaves_nothing_behind(
    reusable: ReusableModel, method: TrainingConfig
) -> None:
    before = anatomy(reusable.model)

    def fail() -> None:
        with reusable.attach(method) as attached:
            disturb(attached)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert anatomy(reusable.model) == before
    reusable.verify()


def test_a_changed_base_is_noticed(reusable: ReusableModel) -> None:
    with torch.no_grad():
        weight = reusable.model.get_parameter("model.norm.weight")
        weight[3] = torch.nextafter(weight[3], torch.tensor(2.0))
    with pytest.raises(BaseModelChanged):
        reusable.verify()


def test_a_changed_base_behind_a_frozen_adapter_is_noticed(base: Path) -> None:
    reusable = load(base, "float32", "lora")
    with reusable.attach(LORA) as attached, torch.no_grad():
        attached.base.get_parameter("model.norm.weight").add_(1)
    with pytest.raises(BaseModelChanged):
        reusable.verify()


def test_a_model_is_lent_to_one_trial_at_a_time(reusable: ReusableModel) -> None:
    with (
        reusable.attach(FULL),
        pytest.raises(RuntimeError, match="lent"),
        reusable.attach(LORA),
    ):
        pass
    reusable.verify()


def test_full_trains_everything_and_lora_the_adapter_alone(reusable: ReusableModel) -> None:
    with reusable.attach(FULL) as attached:
        assert [name for name, _ in attached.trainable] == [
            name for name, _ in reusable.model.named_parameters()
        ]
        assert attached.module.training
    with reusable.attach(LORA) as attached:
        assert all("lora_" in name for name, _ in attached.trainable)
        assert not any(
            weight.requires_grad
            for name, weight in attached.module.named_parameters()
            if "lora_" not in name
        )
        assert attached.module.training


def test_a_method_that_was_not_prepared_is_refused(base: Path) -> None:
    reusable = load(base, "float32", "lora")
    with pytest.raises(ValueError, match="full"), reusable.attach(FULL):
        pass


def adapter(reusable: ReusableModel, seed: int) -> dict[str, torch.Tensor]:
    with reusable.attach(configuration(LORA.method.model_dump(), seed=seed)) as attached:
        return attached.state_dict()


def test_an_adapter_depends_on_its_seed_alone(reusable: ReusableModel) -> None:
    torch.manual_seed(1)
    first = adapter(reusable, 5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = adapter(reusable, 5), adapter(reusable, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("target", ["nope", "norm", "embed_tokens", "proj", "lm_head", "mlp"])
def test_targets_must_be_inner_linear_layers(reusable: ReusableModel, target: str) -> None:
    method = configuration({"type": "lora", "target_modules": ["q_proj", target]})
    before = anatomy(reusable.model)
    with (
        pytest.raises(InvalidTrial, match=rf"given '{target}'.*down_proj.*v_proj"),
        reusable.attach(method),
    ):
        pass
    assert anatomy(reusable.model) == before
    reusable.verify()


def test_precision_of_trained_and_frozen_weights(base: Path) -> None:
    def types(reusable: ReusableModel, method: TrainingConfig) -> set[tuple[bool, torch.dtype]]:
        with reusable.attach(method) as attached:
            return {(w.requires_grad, w.dtype) for w in attached.module.parameters()}

    both, alone = load(base, "bfloat16", "full", "lora"), load(base, "bfloat16", "lora")
    assert types(both, FULL) == {(True, torch.float32)}
    frozen = {(False, torch.bfloat16), (True, torch.float32)}
    assert types(both, LORA) == types(alone, LORA) == frozen
    plain = load(base, "float32", "full", "lora")
    assert types(plain, LORA) == {(False, torch.float32), (True, torch.float32)}


def test_the_frozen_base_is_the_same_whatever_else_is_searched(
    base: Path, examples: list[EncodedExample]
) -> None:
    losses = []
    for methods in (("full", "lora"), ("lora",)):
        with load(base, "bfloat16", *methods).attach(LORA) as attached:
            causal: Any = attached.base
            assert causal.get_output_embeddings().weight is causal.get_input_embeddings().weight
            losses.append(measure(attached.module, examples))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_full_checkpoint_loads_with_the_same_loss(
    tmp_path: Path, examples: list[EncodedExample], tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "base", tied=tied)
    reusable = load(folder, "float32", "full")
    with reusable.attach(FULL) as attached:
        with torch.no_grad():
            for index, (_, weight) in enumerate(attached.trainable):
                weight.mul_(1 + index / 100)
        loss = measure(attached.module, examples)
        attached.save(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert measure(saved, examples) == loss
    assert loss != measure(reusable.model, examples)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(folder / "model.safetensors"))
    assert ("lm_head.weight" in names) is not tied
    reusable.verify()


def test_a_full_checkpoint_is_written_in_the_type_it_is_served_in(
    base: Path, tmp_path: Path
) -> None:
    with load(base, "bfloat16", "full").attach(FULL) as attached:
        attached.save(tmp_path)
        assert attached.base.config.dtype == torch.float32
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "config.json").read_text())
    wanted = json.loads((base / "config.json").read_text())
    assert config == {**wanted, "dtype": "bfloat16"}
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings["eos_token_id"] == wanted["eos_token_id"]


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_an_adapter_checkpoint_loads_with_the_same_loss(
    reusable: ReusableModel,
    base: Path,
    tmp_path: Path,
    examples: list[EncodedExample],
    targets: Literal["all-linear"] | list[str],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method = configuration({"type": "lora", "rank": 4, "alpha": 8, "target_modules": targets})
    with reusable.attach(method) as attached:
        with torch.no_grad():
            for _, weight in attached.trainable:
                weight.add_(0.02)
        loss = measure(attached.module, examples)
        attached.save(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    saved = PeftModel.from_pretrained(fresh, tmp_path).eval()
    assert measure(saved, examples) == loss
    assert loss != measure(reusable.model, examples)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["inference_mode"] is True
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_adapter_is_written_in_the_type_it_is_served_in(base: Path, tmp_path: Path) -> None:
    with load(base, "bfloat16", "lora").attach(LORA) as attached:
        attached.save(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("method", METHODS)
def test_trainable_weights_come_back_from_their_state(
    reusable: ReusableModel, method: TrainingConfig
) -> None:
    with reusable.attach(method) as attached:
        state = attached.state_dict()
        disturb(attached)
        attached.load_state_dict(state)
        assert all(torch.equal(weight, state[name]) for name, weight in attached.trainable)
        with pytest.raises(ValueError, match="another model or method"):
            attached.load_state_dict({})


def break_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def lose_a_weight(folder: Path) -> None:
    from safetensors.torch import save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "given"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "model_type"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON"),
        (lambda folder: break_config(folder, model_type="nope"), "does not recognize"),
        (lambda folder: break_config(folder, model_type="vit"), "Unrecognized configuration"),
        (lambda folder: break_config(folder, num_hidden_layers="x"), "num_hidden_layers"),
        (lambda folder: break_config(folder, hidden_size=128), "mismatch"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named"),
        (cut_weights, "deserializing header"),
        (lose_a_weight, "model.norm.weight first"),
    ],
)
def test_a_broken_model_folder_is_refused(
    base: Path, tmp_path: Path, damage: Callable[[Path], object], given: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    damage(folder)
    with pytest.raises(InputError, match=given) as caught:
        load(folder, "float32", "full")
    message = str(caught.value)
    assert message.startswith(f"model.path: given '{folder}'")
    assert "\n" not in message
    assert len(message) < 600
