"""What the engines promise besides the right weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluation_lab import EXAMPLES, PROMPTS, Lab, answers, closing, told
from transformers import PreTrainedModel

from hpo.spec.errors import InputError
from hpo.spec.tasks import Decoding
from storage.checkpoints import CheckpointError
from workers.data.batches.loss import evaluation_loss
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.writing import Generated, Writing

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Stop(Exception):
    """Raised out of a callback."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(max_model_len=1 << 20)) as engines:
        engines.load_weights(None)
        yield engines


def test_answers_are_greedy_whatever_was_loaded_before(
    lab: Lab, engines: EvaluationEngines
) -> None:
    """Twice for each, the second time on cached prefixes; none of them outlives its weights."""
    one, two = lab.full(51), lab.full(52)
    for checkpoint in (None, one, two, None, two, one):
        engines.load_weights(checkpoint)
        first = answers(engines)
        _require_greedy(lab.read(checkpoint.directory if checkpoint else lab.base), first)
        assert answers(engines) == first


def test_loss_is_that_of_the_base_model(lab: Lab, engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    wanted = evaluation_loss(
        lab.read_base(), EXAMPLES, pad_id=0, tokens_per_batch=1, device=torch.device("cpu")
    )
    got = engines.loss(EXAMPLES, tokens_per_batch=1 << 12)
    assert got.tokens == wanted.tokens
    assert got.total == pytest.approx(wanted.total, rel=1e-6)


def test_progress_is_reported_and_may_end_the_generation(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    calls: list[None] = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Stop

    whole = answers(engines)
    with pytest.raises(Stop):
        answers(engines, on_progress=stop_at_the_third)
    assert answers(engines) == whole


def test_answers_are_handed_on_between_the_steps(engines: EvaluationEngines) -> None:
    """Short ones before long ones are done, and many more than are decoded at a time."""
    engines.load_weights(None)
    steps, seen = 0, []
    prompts = [prompt for prompt in PROMPTS for _ in range(8)]
    decoding = Decoding()

    def count() -> None:
        nonlocal steps
        steps += 1

    def take(item: int, sample: int, answer: Generated) -> None:
        seen.append((item, steps))

    engines.generate(Writing(prompts, 6, decoding), take, count)
    assert sorted(item for item, _ in seen) == list(range(64))
    assert len({step for _, step in seen}) >= 8
    assert seen[0][1] < steps / 4


def test_a_callback_that_raises_ends_the_generation(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    whole = answers(engines)

    def take(item: int, sample: int, answer: Generated) -> None:
        raise Stop

    with pytest.raises(Stop):
        engines.generate(Writing(PROMPTS, 6, Decoding()), take)
    assert answers(engines) == whole


def test_prompts_get_what_is_left_of_the_models_window(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    assert engines.window == 2048
    prompts = [[1] * length for length in (2042, 2047, 2048, 3000)]
    found = answers(engines, prompts, 7)
    assert found.keys() == {(0, 0), (1, 0)}
    lengths = [len(found[item, 0].token_ids) for item in (0, 1)]
    assert lengths == [6, 1]
    assert all(answer.truncated for answer in found.values())
    assert answers(engines, prompts[2:], 7) == {}
    assert answers(engines, [], 6) == {}


def test_engine_is_usable_after_a_checkpoint_vanished(lab: Lab, engines: EvaluationEngines) -> None:
    checkpoint = lab.full(42)
    lab.store.delete("full-42")
    with pytest.raises(CheckpointError, match="is missing"):
        engines.load_weights(checkpoint)
    assert math.isfinite(told(engines, None).loss)


# From here on, engines are shut down, which takes vLLM's process groups from any other.
def test_nothing_is_generated_without_generation(lab: Lab) -> None:
    with closing(lab.engines(generation=False)) as engines:
        engines.load_weights(lab.full(43))
        assert math.isfinite(engines.loss(EXAMPLES, tokens_per_batch=64).mean)
        with pytest.raises(RuntimeError, match="without generation"):
            answers(engines)


def test_a_model_that_vllm_cannot_serve_is_the_studys_fault(lab: Lab, tmp_path: Path) -> None:
    # Imported late: vLLM reads the environment when it is imported.
    from workers.evaluation.engines.generation import GenerationEngine

    folder = shutil.copytree(lab.base, tmp_path / "without-weights")
    (folder / "model.safetensors").unlink()
    options = evaluation_options(lab.spec(folder), lab.evaluation(), device="cpu", max_model_len=64)
    with pytest.raises(InputError, match="which vLLM cannot serve here"):
        GenerationEngine(options)


def test_several_adapters_at_a_time_are_refused_on_a_cpu(lab: Lab) -> None:
    with pytest.raises(InputError, match="adapters_together: given 2; allowed: 1 on a CPU"):
        lab.engines(lora_rank=8, adapters_together=2)


def _require_greedy(model: PreTrainedModel, found: dict[tuple[int, int], Generated]) -> None:
    """Every token is the one that transformers finds likeliest."""
    for item, prompt in enumerate(PROMPTS):
        answer = found[item, 0].token_ids
        with torch.no_grad():
            best = model(torch.tensor([[*prompt, *answer]])).logits.argmax(-1)
        assert tuple(best[0, len(prompt) - 1 : -1].tolist()) == answer
