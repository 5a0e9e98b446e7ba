"""An engine that breaks on verified weights is built anew, and the same is tried once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from evaluation_lab import Answers, Lab, answers, closing, told

from storage.checkpoints import Checkpoint, CheckpointError
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.recovery import EngineBroken

pytestmark = [pytest.mark.engine, pytest.mark.slow]

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module", params=["views", "reload"])
def engines(lab: Lab, request: pytest.FixtureRequest) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=8, memory=request.param)) as engines:
        yield engines


@pytest.fixture(scope="module")
def checkpoints(lab: Lab) -> list[Checkpoint]:
    adapter = lab.adapter("adapter", 2, r=4, lora_alpha=8, target_modules=["q_proj"])
    return [lab.full(81), adapter]


@pytest.fixture(scope="module")
def wanted(engines: EvaluationEngines, checkpoints: list[Checkpoint]) -> list[Answers]:
    return [told(engines, checkpoint) for checkpoint in checkpoints]


def test_a_reload_that_fails_is_done_again(
    engines: EvaluationEngines, checkpoints: list[Checkpoint], wanted: list[Answers]
) -> None:
    for which, checkpoint in enumerate(checkpoints):
        with _failing(_reload(), 1):
            engines.load_weights(checkpoint)
        said = told(engines, checkpoint)
        assert said == wanted[which]


def test_answers_go_on_where_they_broke_off(
    engines: EvaluationEngines, checkpoints: list[Checkpoint], wanted: list[Answers]
) -> None:
    """Each is handed on once, which `answers` asserts; then the loss of the same weights."""
    for which, checkpoint in enumerate(checkpoints):
        engines.load_weights(checkpoint)
        whole = answers(engines)
        with _failing(_step(), 1, after=3):
            assert answers(engines) == whole
        assert told(engines, checkpoint) == wanted[which]


def test_the_second_failure_is_told_of_the_checkpoint(
    engines: EvaluationEngines, checkpoints: list[Checkpoint], wanted: list[Answers]
) -> None:
    with _failing(_reload(), 2), pytest.raises(CheckpointError, match="failed twice on verified"):
        engines.load_weights(checkpoints[0])
    assert told(engines, checkpoints[1]) == wanted[1]
    engines.load_weights(checkpoints[0])
    with _failing(_step(), 2), pytest.raises(CheckpointError, match="failed twice on verified"):
        answers(engines)
    assert told(engines, checkpoints[0]) == wanted[0]


def test_a_lack_of_memory_makes_the_engine_narrower(
    engines: EvaluationEngines, checkpoints: list[Checkpoint], wanted: list[Answers]
) -> None:
    assert engines.generation is not None
    before = engines.generation.sequences
    engines.load_weights(checkpoints[0])
    whole = answers(engines)
    with _failing(_step(), 2, torch.OutOfMemoryError("full")):
        assert answers(engines) == whole
    assert engines.generation.sequences == before // 4
    assert told(engines, checkpoints[1]) == wanted[1]


def test_misshapen_weights_break_an_engine_and_a_new_one_is_sound(lab: Lab) -> None:
    """What verification keeps away."""
    from workers.evaluation.engines.generation import GenerationEngine

    options = evaluation_options(lab.spec(), lab.evaluation(), device="cpu", max_model_len=64)
    engine = GenerationEngine(options)
    try:
        for weights in ([(QUERY, torch.zeros(7, 7))], []):
            with pytest.raises(EngineBroken):
                engine.reload(lambda weights=weights: iter(weights), base=False)  # type: ignore[misc]
            engine.rebuild()
            tensors = dict(engine.module.named_parameters())
            assert not any(tensor.is_meta for tensor in tensors.values())
    finally:
        engine.close()


def _failing(
    target: tuple[Any, str],
    times: int,
    error: Exception | None = None,
    *,
    after: int = 0,
) -> AbstractContextManager[Any]:
    """Inside, calls of a method raise so many times, after so many that do not."""
    raised = RuntimeError("broken for the test") if error is None else error
    owner, name = target
    whole: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(after + times))

    def fail(*arguments: Any, **options: Any) -> Any:
        number = next(calls, None)
        if number is not None and number >= after:
            raise raised
        return whole(*arguments, **options)

    return patch.object(owner, name, fail)


def _step() -> tuple[Any, str]:
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine, "step"


def _reload() -> tuple[Any, str]:
    """Every way to new weights, so that the base of a new engine can be kept from it, too."""
    from vllm import LLM

    return LLM, "collective_rpc"
