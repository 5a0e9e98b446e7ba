"""Weights put in place score as engines do that were built for them, however many came before."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from evaluation_lab import EXAMPLES, PROMPTS, Answers, Lab, answers, closing, texts_of, told

from storage.checkpoints import Checkpoint

if TYPE_CHECKING:
    from evaluation_lab import Dtype

    from workers.evaluation.engines.engines import EvaluationEngines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RANK = 8
MIB = 1 << 20
MIXED = 50
GROWTH_MIB = 4
"""Of the process, over the later half of a row of checkpoints; copies of the models make 12."""


@pytest.mark.parametrize(
    ("tied", "dtype"),
    [
        (True, "float32"),
        pytest.param(True, "bfloat16", marks=pytest.mark.exhaustive),
        pytest.param(False, "float32", marks=pytest.mark.exhaustive),
        pytest.param(False, "bfloat16", marks=pytest.mark.exhaustive),
    ],
)
def test_in_place_equals_fresh(tmp_path: Path, tied: bool, dtype: Dtype) -> None:
    """To the bit: a full checkpoint, an adapter and a merged one, each after all the others."""
    lab = Lab(tmp_path, tied=tied, dtype=dtype)
    full, adapter, dora = lab.full(11), _adapter(lab, 1), _dora(lab, 2)
    fresh = [
        _fresh(lab, lab.engines(full.directory, lora_rank=RANK), None),
        _fresh(lab, lab.engines(lora_rank=RANK), adapter),
        _fresh(lab, lab.engines(lab.merged(dora).directory, lora_rank=RANK), None),
    ]
    with closing(lab.engines(lora_rank=RANK)) as engines:
        base = told(engines, None)
        assert len({answer for said in (*fresh, base) for answer in said.tokens}) == 32
        # Each after each, itself among them.
        for which in (0, 0, 1, 1, 2, 2, 0, 2, 1, 0):
            assert told(engines, (full, adapter, dora)[which]) == fresh[which]
        assert told(engines, None) == base


@pytest.mark.parametrize(
    ("tied", "dtype", "rounds"),
    [
        (False, "bfloat16", 1),
        pytest.param(True, "float32", 6, marks=pytest.mark.exhaustive),
        pytest.param(True, "bfloat16", 6, marks=pytest.mark.exhaustive),
        pytest.param(False, "float32", 6, marks=pytest.mark.exhaustive),
        pytest.param(False, "bfloat16", 6, marks=pytest.mark.exhaustive),
    ],
)
def test_many_mixed_checkpoints_in_a_row(
    tmp_path: Path, tied: bool, dtype: Dtype, rounds: int
) -> None:
    """Each scores the same each time, a full one as a fresh engine, and memory does not grow."""
    lab = Lab(tmp_path, tied=tied, dtype=dtype)
    checkpoints = [
        None,
        *(lab.full(seed) for seed in (21, 22, 23)),
        *(_adapter(lab, seed) for seed in (1, 2, 3)),
        *(_dora(lab, seed) for seed in (4, 5)),
    ]
    with closing(lab.engines(lab.full(21).directory, lora_rank=RANK)) as engines:
        fresh = _quick(engines, None)
    row = random.Random(0).choices(range(len(checkpoints)), k=MIXED * rounds)
    with closing(lab.engines(lora_rank=RANK)) as engines:
        first = {which: _quick(engines, checkpoints[which]) for which in range(len(checkpoints))}
        assert len({loss for _, loss in first.values()}) == len(checkpoints)
        assert first[1] == fresh
        half = len(row) // 2
        for which in row[:half]:
            assert _quick(engines, checkpoints[which]) == first[which]
        before = _resident()
        for which in row[half:]:
            assert _quick(engines, checkpoints[which]) == first[which]
        assert _resident() - before < GROWTH_MIB * MIB


def _fresh(lab: Lab, engines: EvaluationEngines, checkpoint: Checkpoint | None) -> Answers:
    """What engines say that were built for this alone."""
    with closing(engines):
        return told(engines, checkpoint)


def _quick(
    engines: EvaluationEngines, checkpoint: Checkpoint | None
) -> tuple[Sequence[str], float]:
    engines.load_weights(checkpoint)
    texts = texts_of(answers(engines, PROMPTS[:4], 6))
    return texts, engines.loss(EXAMPLES, tokens_per_batch=256).mean


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _adapter(lab: Lab, seed: int) -> Checkpoint:
    return lab.adapter(f"lora-{seed}", seed, r=4, lora_alpha=8, target_modules="all-linear")


def _dora(lab: Lab, seed: int) -> Checkpoint:
    """One that vLLM refuses, so that it is merged."""
    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": True}
    return lab.adapter(f"dora-{seed}", seed, lora_alpha=8, **options)
