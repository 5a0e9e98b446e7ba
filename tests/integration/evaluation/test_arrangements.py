"""However the engines share their device, they say the same."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from evaluation_lab import EXAMPLES, Answers, Dtype, Lab, answers, ask, closing, texts_of, told

from storage.checkpoints import Checkpoint
from workers.evaluation.engines.arrangement import Name
from workers.evaluation.engines.engines import EvaluationEngines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SLEEPING = ("sleep", "reload")


def _checkpoints(lab: Lab) -> list[Checkpoint | None]:
    adapter = lab.adapter("adapter", 1, r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    merged = lab.adapter("merged", 2, r=4, target_modules=["v_proj"], use_dora=True)
    return [None, lab.full(91), adapter, merged, adapter, None]


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.exhaustive)]
)
def test_every_arrangement_scores_the_same(tmp_path: Path, dtype: Dtype) -> None:
    lab = Lab(tmp_path, dtype=dtype)
    checkpoints = _checkpoints(lab)
    found: dict[str, list[Answers]] = {}
    for name in get_args(Name):
        with closing(lab.engines(lora_rank=8, memory=name)) as engines:
            assert engines.arrangement.name == name
            found[name] = [told(engines, checkpoint) for checkpoint in checkpoints]
            _require_what_it_promises(engines, found[name][-1])
    assert len({said.loss for said in found["together"]}) == 4
    assert all(said == found["together"] for said in found.values())


def _require_what_it_promises(engines: EvaluationEngines, base: Answers) -> None:
    """Where vLLM sleeps for the loss, nothing is generated before the next weights."""
    if engines.arrangement.name in SLEEPING:
        with pytest.raises(RuntimeError, match="the engine sleeps"):
            answers(engines)
    else:
        assert texts_of(answers(engines)) == base.texts
    assert engines.loss(EXAMPLES, tokens_per_batch=64).mean == base.loss
    # Taken apart, as who measures them does; each may be called again.
    for _ in range(2):
        engines.to_loss()
    for _ in range(2):
        engines.to_generation()
    engines.load_weights(None)
    assert ask(engines) == base


def test_transformers_alone_needs_no_arrangement(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with closing(lab.engines(generation=False)) as engines:
        assert engines.generation is None
        engines.to_generation()
        losses = []
        for checkpoint in _checkpoints(lab):
            engines.load_weights(checkpoint)
            losses.append(engines.loss(EXAMPLES, tokens_per_batch=64).mean)
        assert losses[0] == losses[-1]
        assert losses[2] == losses[4]
        assert len(set(losses)) == 4
