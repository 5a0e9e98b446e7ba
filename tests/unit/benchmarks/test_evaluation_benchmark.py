from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.evaluation import loss, split
from benchmarks.evaluation.parts import Evaluated, Parts, largest_difference, other_answers
from benchmarks.evaluation.problems import FILES, put_problems
from benchmarks.evaluation.scenes import CPU, SCENES, TINY_EXACT, read_sets, read_spec
from benchmarks.evaluation.served import MEMORY, REPORTED
from benchmarks.evaluation.turns import Way, alternate
from benchmarks.training.models import Shape
from workers.data.batches.loss import evaluation_loss

LOG = """\
2026-01-01 10:00:00,000 INFO workers.evaluation.worker: memory of the evaluation device: views (it)
2026-01-01 10:00:01,000 INFO workers.evaluation.worker: the base model: loss 2, 1 s (9 ms to report)
2026-01-01 10:00:02,000 INFO workers.evaluation.worker: trial 3, batch 8: loss 2.5000, accuracy \
0.500 (1 of 2), 1.25 s, 0.25 s of it overhead (21 ms to report)
"""


def parts(**other: object) -> Parts:
    one = Parts(
        address="after-8",
        loss=2.0,
        answers=["a", "b"],
        accuracy=0.5,
        seconds=4.0,
        load=0.125,
        generate=2.0,
        grade=0.25,
        switch=0.0625,
        forward=1.25,
        report=0.0625,
    )
    return one.model_copy(update=other)


def test_overhead_is_all_but_generation_grading_and_forward_passes() -> None:
    one = parts()
    assert (one.overhead, one.rest, one.share) == (0.5, 0.25, 0.125)


def test_the_same_checkpoints_are_compared() -> None:
    assert largest_difference([parts()], [parts(loss=2.5)]) == 0.5
    assert other_answers([parts()], [parts(answers=["a", "c"])]) == 1
    with pytest.raises(ValueError, match="same checkpoints"):
        largest_difference([parts()], [parts(address="after-16")])


def test_the_table_has_both_ways_side_by_side() -> None:
    ours = Evaluated(parts=[parts()], memory="views", load_average=1.0)
    anew = Evaluated(parts=[parts(seconds=8.0, switch=0.0)], load_average=2.0)
    told = split.table(TINY_EXACT, ours, anew)
    assert "| evaluation | 4.000 | 8.000 | 2.0 |" in told
    assert "| switch | 0.062 | 0.000 |  |" in told
    assert "| overhead, share of an evaluation | 12.5% | 56.2% | |" in told
    assert "losses differ by 0.0e+00 at most, 0 of 2 answers and 0 accuracies differ" in told


def test_the_worker_s_log_tells_reports_and_memory() -> None:
    (found,) = REPORTED.finditer(LOG)
    assert (found["number"], found["milliseconds"]) == ("3", "21")
    memory = MEMORY.search(LOG)
    assert memory is not None
    assert memory[1] == "views (it)"


def test_the_ways_take_turns_after_one_that_does_not_count() -> None:
    calls: list[str] = []
    ways = [Way(name, lambda name=name: calls.append(name)) for name in "abc"]  # type: ignore[misc]
    alternate(ways, count=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert [len(way.seconds) for way in ways] == [3, 3, 3]


def test_speeds_are_those_of_the_median_and_of_the_best_turns() -> None:
    one = Way("one", list, seconds=[1.0, 1.0, 2.0], busy=[1.0, 4.0, 4.0])
    other = Way("other", list, seconds=[3.0, 2.0, 2.0], busy=[3.0, 2.0, 9.0])
    assert one.speed(other) == 2.0
    assert one.best(other) == 2.0
    assert one.thrift(other) == 2.0


def test_made_up_problems_have_the_form_of_gsm8k(tmp_path: Path) -> None:
    put_problems(None, tmp_path)
    for name in FILES:
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert all(row["answer"].splitlines()[-1].startswith("#### ") for row in rows)
        assert len({row["question"] for row in rows}) == len(rows)


def test_the_scenes_have_both_kinds_of_checkpoints_and_both_tasks() -> None:
    assert {scene.method for scene in SCENES.values()} == {"full", "lora"}
    assert {scene.task for scene in SCENES.values()} == {"exact", "math"}


def test_our_loss_and_a_bare_loop_s_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "home"))
    scene = replace(TINY_EXACT, shape=Shape("tiny", 64, 2, 96, 2, 1, 512), items=20, checkpoints=0)
    scene.write(None, tmp_path)
    sets = read_sets(read_spec(tmp_path))
    bare = loss.Bare(tmp_path / "model", sets.loss)
    bare.compute()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ours = evaluation_loss(model, sets.loss, pad_id=0, tokens_per_batch=1024, device=CPU)
    assert bare.found == pytest.approx(ours.mean, rel=loss.TOLERANCE)
