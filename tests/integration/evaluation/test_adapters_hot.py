"""LoRA adapters come and go on top of the base weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from evaluation_lab import Answers, Lab, ask, closing

from storage.checkpoints import Checkpoint, CheckpointError
from workers.evaluation.adapters import SERVED_RANKS
from workers.evaluation.engines import EvaluationEngines

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


def _answers(engines: EvaluationEngines, checkpoint: Checkpoint | None) -> Answers:
    engines.load_weights(checkpoint)
    return ask(engines)
