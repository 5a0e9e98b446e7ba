from __future__ import annotations

import json
import math

import pytest

from workers.evaluation.score import Scores, Timings


def _scores(loss: float) -> Scores:
    return Scores(
        loss=loss,
        loss_total=loss * 4,
        loss_tokens=4,
        perplexity=loss,
        accuracy=0.5,
        accuracy_low=0.1,
        accuracy_high=0.9,
        correct=1,
        total=2,
        outcomes=(True, False),
        answers=("a", "b"),
        timings=Timings(load=0.1, generate=0.5, grade=0.1, loss=0.2, total=1.0),
    )


def test_overhead_is_what_is_neither_generation_nor_loss() -> None:
    assert _scores(1.0).timings.overhead == pytest.approx(0.3)


@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf, -math.inf])
def test_every_loss_survives_strict_json(loss: float) -> None:
    text = json.dumps(_scores(loss).as_dict(), allow_nan=False)
    read = json.loads(text)
    assert str(float(read["loss"])) == str(loss)
    assert read["outcomes"] == [True, False]
    assert read["timings"]["overhead"] == pytest.approx(0.3)
