"""What the engines promise besides the right weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from evaluation_lab import EXAMPLES, MAX_NEW_TOKENS, PROMPTS, Lab, ask, closing

from hpo.spec.errors import InputError
from storage.checkpoints import CheckpointError
from workers.data.batches.loss import evaluation_loss
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.grading.grader import Grader
from workers.evaluation.score import EvaluationSets, GenerationSet, score

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Stop(Exception):
    """Raised out of a progress callback."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines()) as engines:
        engines.load_weights(None)
        yield engines


def test_answers_are_greedy(lab: Lab, engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    told = ask(engines)
    model = lab.read_base().eval()
    for prompt, answer in zip(PROMPTS, told.tokens, strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            best = model(ids).logits.argmax(-1)[0, len(prompt) - 1 : -1]
        assert best.tolist() == list(answer)


def test_loss_is_that_of_the_base_model(lab: Lab, engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    wanted = evaluation_loss(
        lab.read_base(), EXAMPLES, pad_id=0, tokens_per_batch=1, device=torch.device("cpu")
    )
    got = engines.loss(EXAMPLES, tokens_per_batch=1 << 12)
    assert got.tokens == wanted.tokens
    assert got.total == pytest.approx(wanted.total, rel=1e-6)


def test_generation_ends_at_a_stop_token(engines: EvaluationEngines) -> None:
    assert engines.generation is not None
    engines.load_weights(None)
    whole = engines.generation.generate(PROMPTS[:1], max_new_tokens=MAX_NEW_TOKENS)[0].token_ids
    stopped = engines.generation.generate(
        PROMPTS[:1], max_new_tokens=MAX_NEW_TOKENS, stop_token_ids=[whole[3]]
    )
    end = whole.index(whole[3])
    assert stopped[0].token_ids == whole[: end + 1]


def test_progress_is_reported_and_may_end_the_generation(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    calls: list[None] = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Stop

    whole = engines.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS)
    with pytest.raises(Stop):
        engines.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS, on_progress=stop_at_the_third)
    assert engines.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS) == whole


def test_no_cached_prefix_outlives_its_weights(lab: Lab, engines: EvaluationEngines) -> None:
    checkpoints = [lab.full(51), lab.full(52), None]
    wanted = []
    for checkpoint in checkpoints:
        engines.load_weights(checkpoint)
        wanted.append(ask(engines).texts)
    # Without the loss in between, the engine does not sleep, which drops the cache too.
    for checkpoint, texts in [*zip(checkpoints, wanted, strict=True)] * 2:
        engines.load_weights(checkpoint)
        assert engines.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS) == texts


def test_a_sleeping_engine_refuses_to_generate(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    told = ask(engines)
    with pytest.raises(RuntimeError, match="the engine sleeps"):
        engines.generate(PROMPTS, max_new_tokens=4)
    assert engines.loss(EXAMPLES, tokens_per_batch=64).mean == told.loss
    engines.load_weights(None)
    assert ask(engines) == told


def test_too_long_a_prompt_is_refused(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    with pytest.raises(ValueError, match="exceed the engine's 256 tokens"):
        engines.generate([[1] * 250], max_new_tokens=7)
    assert len(engines.generate([[1] * 250], max_new_tokens=6)) == 1
    assert engines.generate([], max_new_tokens=6) == []


def test_lengths_beyond_the_model_are_refused(lab: Lab) -> None:
    with pytest.raises(InputError, match="takes 2048"):
        lab.engines(max_model_len=4096)


def test_score_of_a_checkpoint(lab: Lab, engines: EvaluationEngines) -> None:
    checkpoint = lab.full(41)
    engines.load_weights(checkpoint)
    wanted = ask(engines)
    references = [*wanted.texts[:6], "wrong", "wrong"]
    sets = EvaluationSets(EXAMPLES, GenerationSet(PROMPTS, references, "exact", MAX_NEW_TOKENS))
    with Grader() as grader:
        scores = score(engines, grader, checkpoint, sets, tokens_per_batch=64)
    assert scores.outcomes == (True,) * 6 + (False,) * 2
    assert (scores.correct, scores.total, scores.accuracy) == (6, 8, 0.75)
    assert scores.accuracy_low is not None
    assert scores.accuracy_high is not None
    assert 0 < scores.accuracy_low < 0.75 < scores.accuracy_high < 1
    assert scores.loss == wanted.loss
    assert scores.loss_total / scores.loss_tokens == scores.loss
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert 0 < scores.timings.overhead < scores.timings.total


def test_score_without_generation(lab: Lab) -> None:
    with closing(lab.engines(generation=False)) as engines, Grader() as grader:
        scores = score(engines, grader, None, EvaluationSets(EXAMPLES), tokens_per_batch=64)
        assert scores.accuracy is None
        assert scores.outcomes == ()
        with pytest.raises(RuntimeError, match="without generation"):
            engines.generate(PROMPTS, max_new_tokens=4)


def test_diverged_weights_give_a_loss_that_is_not_a_number(
    lab: Lab, engines: EvaluationEngines
) -> None:
    def diverge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"].fill_(math.nan)

    sets = EvaluationSets(EXAMPLES, GenerationSet(PROMPTS, ["1"] * 8, "numeric", 4))
    with Grader() as grader:
        scores = score(engines, grader, lab.altered("nan", diverge), sets, tokens_per_batch=64)
        assert math.isnan(scores.loss)
        assert scores.as_dict()["loss"] == "nan"
        after = score(engines, grader, None, sets, tokens_per_batch=64)
    assert math.isfinite(after.loss)


def test_engine_is_usable_after_a_checkpoint_vanished(lab: Lab, engines: EvaluationEngines) -> None:
    checkpoint = lab.full(42)
    lab.store.delete("full-42")
    with pytest.raises(CheckpointError, match="is missing"):
        engines.load_weights(checkpoint)
    engines.load_weights(None)
    assert math.isfinite(ask(engines).loss)
