"""An engine that breaks on verified weights is built anew, and the same is tried once more."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from evaluation_lab import PROMPTS, Lab, answers, ask, closing, told

from storage.checkpoints import Checkpoint, CheckpointError
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.recovery import EngineBroken, EngineUnusable

pytestmark = [pytest.mark.engine, pytest.mark.slow]

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(
    scope="module", params=["views", pytest.param("reload", marks=pytest.mark.exhaustive)]
)
def engines(lab: Lab, request: pytest.FixtureRequest) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=8, memory=request.param)) as engines:
        yield engines


@pytest.fixture(scope="module")
def full(lab: Lab) -> Checkpoint:
    return lab.full(81)


@pytest.fixture(scope="module")
def adapter(lab: Lab) -> Checkpoint:
    return lab.adapter("adapter", 2, r=4, lora_alpha=8, target_modules=["q_proj"])


def test_a_reload_that_fails_is_done_again(
    engines: EvaluationEngines, full: Checkpoint, adapter: Checkpoint
) -> None:
    wanted = [told(engines, checkpoint) for checkpoint in (full, adapter)]
    engines.load_weights(None)
    with _failing(_reload(), 1):
        engines.load_weights(full)
    assert ask(engines) == wanted[0]
    assert told(engines, adapter) == wanted[1]


def test_answers_go_on_where_they_broke_off(
    engines: EvaluationEngines, adapter: Checkpoint
) -> None:
    """Each is handed on once, which `answers` asserts; then the loss of the same weights.

    Nothing keeps the broken engine in memory.
    """
    assert engines.generation is not None
    wanted = told(engines, adapter)
    engines.load_weights(adapter)
    whole = answers(engines)
    broken = weakref.ref(engines.generation.module)
    with _failing(_step(), 1, after=14):
        assert answers(engines, PROMPTS * 2) == {
            (item, 0): whole[item % len(PROMPTS), 0] for item in range(2 * len(PROMPTS))
        }
    assert broken() is None
    assert ask(engines) == wanted


@pytest.mark.exhaustive
def test_the_second_failure_is_told_of_the_checkpoint(
    engines: EvaluationEngines, full: Checkpoint, adapter: Checkpoint
) -> None:
    wanted = told(engines, full)
    engines.load_weights(adapter)
    with _failing(_step(), 2), pytest.raises(CheckpointError, match="failed twice on verified"):
        answers(engines)
    assert told(engines, full) == wanted


def test_requests_that_vllm_drops_are_asked_again(
    engines: EvaluationEngines, full: Checkpoint
) -> None:
    wanted = told(engines, full)
    engines.load_weights(full)
    with _dropping_one():
        assert ask(engines) == wanted


def test_a_lack_of_memory_makes_the_engine_narrower(
    engines: EvaluationEngines, full: Checkpoint
) -> None:
    assert engines.generation is not None
    before = engines.generation.sequences
    wanted = told(engines, full)
    engines.load_weights(full)
    with _failing(_step(), 1, torch.OutOfMemoryError):
        assert ask(engines) == wanted
    assert engines.generation.sequences == before // 2


def test_an_engine_that_fails_on_the_base_model_too_blames_no_checkpoint(
    engines: EvaluationEngines, full: Checkpoint
) -> None:
    """Nothing is asked of these engines any more: the process ends with them."""
    engines.load_weights(full)
    with _failing(_step(), 3), pytest.raises(EngineUnusable, match="on the base model too"):
        answers(engines)


# The last one: an engine that is shut down takes vLLM's process groups from any other.
def test_what_verification_keeps_away_breaks_an_engine(lab: Lab) -> None:
    from workers.evaluation.engines.generation import GenerationEngine

    options = evaluation_options(lab.spec(), lab.evaluation(), device="cpu", max_model_len=64)
    engine = GenerationEngine(options)
    try:
        with pytest.raises(EngineBroken):
            engine.reload(lambda: iter([(QUERY, torch.zeros(7, 7))]), base=False)
    finally:
        engine.close()


@contextmanager
def _failing(
    target: tuple[Any, str], times: int, error: type[Exception] = RuntimeError, *, after: int = 0
) -> Iterator[None]:
    """Inside, calls of a method raise so many times, after so many that do not."""
    owner, name = target
    whole: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(after + times))

    def fail(*arguments: Any, **options: Any) -> Any:
        number = next(calls, None)
        if number is not None and number >= after:
            raise error("broken for the test")
        return whole(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


@contextmanager
def _dropping_one() -> Iterator[None]:
    """Inside, the first request that is queued is aborted behind its owner's back."""
    from vllm import LLM

    whole: Callable[..., Any] = LLM.enqueue
    dropped: list[str] = []

    def enqueue(llm: Any, *arguments: Any, **options: Any) -> Any:
        identifiers = whole(llm, *arguments, **options)
        if not dropped:
            dropped.append(identifiers[0])
            llm.llm_engine.abort_request(dropped, internal=True)
        return identifiers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLM, "enqueue", enqueue)
        yield
    assert dropped


def _step() -> tuple[Any, str]:
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine, "step"


def _reload() -> tuple[Any, str]:
    """Every way to new weights, so that the base of a new engine can be kept from it, too."""
    from vllm import LLM

    return LLM, "collective_rpc"
