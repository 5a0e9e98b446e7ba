from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model_lab import CPU, configuration, full, load, make_gpt2

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import InvalidTrial
from workers.trial.loop.run import TrainingRun
from workers.trial.model.reusable import ReusableModel


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ReusableModel:
    """It has learned 64 positions."""
    return load(make_gpt2(tmp_path_factory.mktemp("gpt2")), "float32", full())


def train(model: ReusableModel, config: TrainingConfig, length: int) -> int:
    few = [EncodedExample.completion_only(range(n), 2) for n in (5, length)]
    with model.attach(config) as attached:
        run = TrainingRun(attached, config, few, pad_id=0, device=CPU)
        return run.train_batch().step


@pytest.mark.parametrize(
    ("options", "length", "row"),
    [
        ({}, 65, 65),
        ({"padding": "max-length", "max_length": 65}, 9, 65),
        # The padding behind a short packed row has positions as well.
        ({"packing": True, "max_length": 300}, 9, 300),
    ],
)
def test_rows_beyond_the_learned_positions_are_refused(
    gpt2: ReusableModel, options: dict[str, Any], length: int, row: int
) -> None:
    message = f"^training.max_length: given rows of {row} tokens; allowed: at most 64, "
    with pytest.raises(InvalidTrial, match=message):
        train(gpt2, configuration({"type": "full"}, **options), length)


@pytest.mark.parametrize("options", [{}, {"packing": True, "max_length": 64}])
def test_rows_that_fill_the_positions_are_not(gpt2: ReusableModel, options: dict[str, Any]) -> None:
    assert train(gpt2, configuration({"type": "full"}, **options), 64) == 1


def test_computed_positions_have_no_end(base: Path) -> None:
    model = load(base, "float32", full())
    model.model.config.max_position_embeddings = 8
    assert train(model, full(), 20) == 1
