"""LoRA adapters come and go on top of the base weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from evaluation_lab import EXAMPLES, Answers, Lab, ask, closing

from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from storage.checkpoints import Checkpoint, CheckpointError
from workers.data.batches.loss import evaluation_loss
from workers.evaluation.engines.adapters import SERVED_RANKS
from workers.evaluation.engines.engines import EvaluationEngines
from workers.tiny import make_tokenizer
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=16)) as engines:
        yield engines


@pytest.fixture(scope="module")
def adapters(lab: Lab) -> list[Checkpoint]:
    return [
        lab.adapter("attention", 1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        lab.adapter("all", 2, r=16, lora_alpha=4, target_modules="all-linear"),
        lab.adapter("mlp", 3, r=1, lora_alpha=8, target_modules=["gate_proj", "down_proj"]),
        lab.adapter("scaled", 4, r=8, lora_alpha=8, target_modules=["o_proj"], use_rslora=True),
    ]


def test_adapter_equals_merged_weights(
    lab: Lab, engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    """In turn, forwards and backwards, each after a full checkpoint and after another adapter."""
    merged = [_answers(engines, lab.merged(adapter)) for adapter in adapters]
    base = _answers(engines, None)
    for adapter, wanted in [*zip(adapters, merged, strict=True)] * 2:
        told = _answers(engines, adapter)
        assert told.tokens == wanted.tokens
        assert told.loss == pytest.approx(wanted.loss, abs=2e-4)
        assert told.tokens != base.tokens
    assert _answers(engines, None) == base


def test_adapter_after_a_full_checkpoint_stands_on_the_base(
    lab: Lab, engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    before = [_answers(engines, adapter) for adapter in adapters]
    full = lab.full(31)
    scored = _answers(engines, full)
    for adapter, wanted in zip(adapters, before, strict=True):
        assert _answers(engines, adapter) == wanted
        assert _answers(engines, full) == scored


def test_the_same_adapter_scores_the_same_after_another(
    engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    first = _answers(engines, adapters[0])
    assert _answers(engines, adapters[1]) != first
    assert _answers(engines, adapters[0]) == first


def test_served_ranks_are_those_of_vllm() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == SERVED_RANKS


def test_adapter_needs_a_study_that_searches_lora(lab: Lab, adapters: list[Checkpoint]) -> None:
    with (
        closing(lab.engines(generation=False)) as engines,
        pytest.raises(CheckpointError, match="the study searches no LoRA"),
    ):
        engines.load_weights(adapters[0])


def test_an_adapter_that_the_trial_merged_is_served(lab: Lab, engines: EvaluationEngines) -> None:
    """As a full checkpoint, in a study of LoRA alone."""
    checkpoint, loss = _trained(lab.base, lab, {"rank": 4, "dora": True, "bias": "all"})
    base = _answers(engines, None)
    told = _answers(engines, checkpoint)
    assert told.loss == pytest.approx(loss, abs=1e-4)
    assert told.tokens != base.tokens
    assert _answers(engines, None) == base


def test_adapters_of_a_model_that_vllm_adapts_not_are_served_merged(
    lab: Lab, tmp_path: Path
) -> None:
    folder = _gpt2(tmp_path)
    checkpoint, loss = _trained(folder, lab, {"rank": 4})
    with closing(lab.engines(folder, lora_rank=4)) as engines:
        base = _answers(engines, None)
        told = _answers(engines, checkpoint)
        assert told.loss == pytest.approx(loss, abs=1e-4)
        assert told.tokens != base.tokens
        assert _answers(engines, None) == base


def _gpt2(folder: Path) -> Path:
    """A random GPT-2, whose linear layers are of another class, with large weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    size: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 2}
    vocabulary = make_tokenizer(folder)
    config = GPT2Config(
        **size, vocab_size=vocabulary, n_positions=256, bos_token_id=256, eos_token_id=256
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def _trained(folder: Path, lab: Lab, method: dict[str, Any]) -> tuple[Checkpoint, float]:
    """A checkpoint as the trial worker writes it, and the loss that the trial would have."""
    import torch

    config = TrainingConfig.model_validate(
        {
            "method": {"type": "lora", **method},
            "optimizer": {"learning_rate": 1e-3},
            "effective_batch_size": 1,
            "max_batches": 1,
        }
    )
    reusable = ReusableModel.load(
        ModelSpec(path=str(folder), dtype="float32"),
        device=torch.device("cpu"),
        needs=ModelNeeds.of([config]),
    )
    generator = torch.Generator().manual_seed(5)
    with reusable.attach(config) as attached, torch.no_grad():
        for _, weight in attached.trainable:
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
        loss = evaluation_loss(
            attached.module, EXAMPLES, pad_id=0, tokens_per_batch=64, device=reusable.device
        )
        assert attached.kind == "full"
        name = f"merged-{folder.name}"
        lab.store.write(name, attached.save, kind=attached.kind, step=1, examples=1)
    return lab.store.open(name), loss.mean


def _answers(engines: EvaluationEngines, checkpoint: Checkpoint | None) -> Answers:
    engines.load_weights(checkpoint)
    return ask(engines)
