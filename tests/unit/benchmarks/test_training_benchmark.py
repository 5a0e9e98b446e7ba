from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.training import loop, switch, trainers
from benchmarks.training.flops import flops_per_token
from benchmarks.training.losses import lost
from benchmarks.training.models import QWEN_1_5B, TEN_MILLION, Shape
from benchmarks.training.observed import Step
from benchmarks.training.problems import as_examples, as_rows, write_problems
from benchmarks.training.timing import Pair, turns
from benchmarks.training.ways import Speed, ours

TINY = Shape("tiny", 64, 2, 128, 2, 1, 512)
CPU = torch.device("cpu")


def weights_of(shape: Shape) -> int:
    with torch.device("meta"):
        from transformers import Qwen2ForCausalLM

        model = Qwen2ForCausalLM(shape.config)
    return sum(weight.numel() for weight in model.parameters())


def test_models_have_the_sizes_they_are_named_by() -> None:
    assert weights_of(TEN_MILLION) == pytest.approx(10e6, rel=0.03)
    assert weights_of(QWEN_1_5B) == 1_543_714_304


@pytest.mark.parametrize("method", ["full", "lora"])
def test_our_loop_and_a_bare_one_do_the_same_work(method: str) -> None:
    measured = loop.compare(TINY, method, CPU, steps=3)
    assert len(measured.pair.ours) == len(measured.pair.other) == 3
    assert measured.difference < 1e-5
    assert measured.row.startswith(f"| {method} | ")


def test_the_ways_take_turns() -> None:
    calls: list[str] = []
    turns(lambda: calls.append("ours"), lambda: calls.append("other"), count=2)
    assert calls == ["other", "ours", "ours", "other"]


def test_the_speed_is_the_median_over_the_turns() -> None:
    assert Pair(ours=[1.0, 1.0, 2.0], other=[3.0, 2.0, 2.0]).speed == 2.0


def test_a_frozen_base_takes_two_thirds_of_the_arithmetic() -> None:
    assert flops_per_token(10, full=True) == 60
    assert flops_per_token(10, full=False) == 40


def test_what_is_lost_lies_between_steps_and_inside_them() -> None:
    steps = [Step(0, 1, 0.9), Step(1, 2, 0), Step(2.5, 4, 0.25), Step(4, 5, 0)]
    found = lost(steps)
    assert (found.seconds, found.between, found.within, found.saves) == (4, 0.5, 0.25, 1)
    assert found.share == 0.75 / 4


def test_a_switch_is_told_as_a_multiple_of_a_copy() -> None:
    name, *cells = switch.compare(TINY, CPU).strip("| ").split(" | ")
    assert name == "tiny"
    assert len([float(cell) for cell in cells]) == 5


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [{"question": "How many is 1 and 2?", "answer": "3\n#### 3"}] * 16
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_problems(source, tmp_path, count=16)
    return tmp_path


def test_all_ways_train_on_the_same_tokens(problems: Path) -> None:
    for example, row in zip(as_examples(problems), as_rows(problems), strict=True):
        assert list(example.input_ids) == row["input_ids"]
        assert row["input_ids"][-1] == 0
        learned = [token for token in row["labels"] if token != -100]
        assert len(learned) == example.counted > 0


def test_our_way_trains_on_all_of_them(problems: Path) -> None:
    Shape("tiny", 64, 2, 128, 2, 1).write(problems / "model")
    speed = ours(problems)
    assert speed.steps == 1
    assert speed.tokens == sum(example.length for example in as_examples(problems))


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(SystemExit, match=r"needs no_such_package; .*\[benchmarks\]"):
        trainers.require_packages()


def test_others_are_compared_with_our_padded_way() -> None:
    found = {
        "ours, padded": [Speed(100, 1.0, 0.5, 2, 1.0)],
        "Trainer": [Speed(100, 2.0, 2.0, 2, 1.0)],
    }
    assert "| Trainer | 50 | 50 | 2 | 1.000 | 2.00 | 4.00 |" in trainers.table(found)
