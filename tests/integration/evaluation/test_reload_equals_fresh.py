"""Weights put in place score as engines do that were built for them, however many came before."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
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
GROWTH_MIB = 16
"""Of the process, over the later half of a row of checkpoints; one is kept twice makes 0.5."""
KINDS = [
    (True, "float32"),
    (False, "bfloat16"),
    pytest.param(True, "bfloat16", marks=pytest.mark.exhaustive),
    pytest.param(False, "float32", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("tied", "dtype"), KINDS)
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
        for one in _in_every_order([full, adapter, dora]):
            wanted = fresh[[full, adapter, dora].index(one)]
            assert told(engines, one) == wanted
        assert told(engines, None) == base


@pytest.mark.parametrize(
    ("tied", "dtype", "rounds"),
    [
        (True, "float32", 1),
        pytest.param(False, "float32", 6, marks=pytest.mark.exhaustive),
        pytest.param(True, "bfloat16", 6, marks=pytest.mark.exhaustive),
        pytest.param(False, "bfloat16", 6, marks=pytest.mark.exhaustive),
    ],
)
def test_many_mixed_checkpoints_in_a_row(
    tmp_path: Path, tied: bool, dtype: Dtype, rounds: int
) -> None:
    """Each scores the same each time, and memory does not grow."""
    lab = Lab(tmp_path, tied=tied, dtype=dtype)
    checkpoints = [
        None,
        *(lab.full(seed) for seed in (21, 22, 23)),
        *(_adapter(lab, seed) for seed in (1, 2, 3)),
        *(_dora(lab, seed) for seed in (4, 5)),
    ]
    row = random.Random(0).choices(range(len(checkpoints)), k=MIXED * rounds)
    with closing(lab.engines(lora_rank=RANK)) as engines:
        first = {which: _quick(engines, checkpoints[which]) for which in range(len(checkpoints))}
        assert len({loss for _, loss in first.values()}) == len(checkpoints)
        sizes = []
        for which in row:
            assert _quick(engines, checkpoints[which]) == first[which]
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[len(sizes) // 2] < GROWTH_MIB * MIB


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


def _adapter(lab: Lab, seed: int) -> Checkpoint:
    return lab.adapter(f"lora-{seed}", seed, r=4, lora_alpha=8, target_modules="all-linear")


def _dora(lab: Lab, seed: int) -> Checkpoint:
    """One that vLLM refuses, so that it is merged."""
    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": True}
    return lab.adapter(f"dora-{seed}", seed, lora_alpha=8, **options)


def _in_every_order(checkpoints: Sequence[Checkpoint]) -> Iterator[Checkpoint]:
    """Every checkpoint after every one, itself among them."""
    for before in checkpoints:
        for after in checkpoints:
            yield before
            yield after
