from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hpo.cli.show import (
    Lines,
    best_lines,
    failure_line,
    render,
    short_names,
    spec_lines,
    warning_lines,
)
from hpo.cli.values import number
from hpo.results.snapshot import Snapshot, TrialView, WorkerView
from hpo.search.asha import Verdict
from hpo.spec.load import load_study

KEEP = Verdict(100, 0.5, True, 1, 3, 0.5)
PRUNE = Verdict(300, 0.75, False, 2, 2, 0.25)
RUNNING = TrialView(
    number=1,
    state="RUNNING",
    parameters={"optimizer.learning_rate": 0.000123456, "method": "lora"},
    value=None,
    loss=0.5,
    accuracy=0.25,
    best_step=None,
    best_examples=None,
    step=3,
    examples=96,
    rungs=[KEEP],
    outcome=None,
    reason=None,
    attempts=1,
    held=True,
    started=None,
    finished=None,
)
PRUNED = replace(RUNNING, number=2, state="PRUNED", rungs=[KEEP, PRUNE], reason="loss 0.75")
BEST = replace(
    RUNNING, number=0, state="COMPLETE", value=0.125, loss=0.125, best_step=9, reason="trained all"
)
FAILED = replace(RUNNING, number=3, state="FAIL", rungs=[], reason="KeyError: [/bold] of [red]")
SNAPSHOT = Snapshot(
    name="tiny",
    state="running",
    metric="loss",
    direction="minimize",
    budget=6,
    trials=[BEST, RUNNING, PRUNED, FAILED],
    workers=[WorkerView("trial", "cpu", "here", 7, "trial 1: batch 3 of 9")],
    evaluations={},
    base={"loss": 2.5, "accuracy": 0.0},
    best=0,
)


def drawn(snapshot: Snapshot) -> list[str]:
    """The lines of the table as a terminal shows them."""
    screen = io.StringIO()
    Console(file=screen, width=200).print(render(snapshot))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_study_as_a_table() -> None:
    lines = drawn(SNAPSHOT)
    assert lines[0] == ("tiny: running, 3 of 6 trials (1 running, 1 complete, 1 pruned, 1 fail)")
    assert lines[1] == "trial worker on cpu: trial 1: batch 3 of 9"
    assert "learning_rate" in lines[2]
    best, running, pruned = (line.split("│") for line in lines[4:7])
    assert [cell.strip() for cell in best[:3]] == ["0 *", "complete", "0.0001235"]
    assert running[-1].strip() == "1/3 at 100"
    assert pruned[-1].strip() == "2/2 at 300"


def test_null_is_a_value_and_what_was_not_drawn_is_none() -> None:
    on = replace(BEST, parameters={"rdrop": "on", "rdrop.on.alpha": 0.5, "dora": True})
    off = replace(RUNNING, parameters={"rdrop": None, "dora": False})
    lines = drawn(replace(SNAPSHOT, trials=[on, off]))
    first, second = ([cell.strip() for cell in line.split("│")] for line in lines[4:6])
    assert first[2:5] == ["on", "0.5", "true"]
    assert second[2:5] == ["null", "", "false"]
    assert "  dora: true" in best_lines(replace(SNAPSHOT, trials=[on]))


def test_names_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    names = ["method.lora.alpha", "rdrop.on.alpha", "neftune.on.alpha", "a.lora.rank", "a.seed"]
    assert list(short_names(names).values()) == [
        "lora.alpha",
        "rdrop.on.alpha",
        "neftune.on.alpha",
        "lora.rank",
        "seed",
    ]


def test_many_parameters_share_a_column() -> None:
    many = replace(BEST, parameters={f"a.p{index}": index for index in range(9)})
    lines = drawn(replace(SNAPSHOT, trials=[many]))
    assert [cell.strip() for cell in lines[2].split("┃")][2:4] == ["parameters", "batch"]
    assert lines[4].split("│")[2].strip() == ", ".join(f"p{i}={i}" for i in range(9))


def test_trials_that_all_failed_say_why() -> None:
    assert "widen the search space" in failure_line(SNAPSHOT)
    alone = failure_line(replace(SNAPSHOT, trials=[FAILED]))
    assert alone.endswith("each failed, the last with: KeyError: [/bold] of [red]")


def test_an_errors_words_are_shown_as_they_are() -> None:
    assert any(line.endswith("KeyError: [/bold] of [red]") for line in drawn(SNAPSHOT))


def test_an_empty_study_can_be_shown() -> None:
    empty = replace(SNAPSHOT, state="idle", trials=[], workers=[], base=None, best=None)
    assert drawn(empty)[0] == "tiny: idle, 0 of 6 trials"
    assert best_lines(empty) == []


def test_the_best_trial_beside_the_base_model() -> None:
    assert best_lines(SNAPSHOT) == [
        "base model: loss 2.5, accuracy 0",
        "best trial: 0, batch 9: loss 0.125, accuracy 0.25",
        "  optimizer.learning_rate: 0.0001235",
        "  method: lora",
    ]


def test_the_difference_to_the_base_model_is_told_with_its_interval() -> None:
    low, high = {"accuracy_low": 0.1, "accuracy_high": 0.4}, {"loss": {"difference": None}}
    better = {
        "loss": {"difference": -2.375, "relative": -0.95},
        "accuracy": {"difference": 0.25, "low": 0.125, "high": 0.375},
    }
    shown = replace(
        SNAPSHOT,
        base={"loss": 2.5, "accuracy": 0.25, **low},
        trials=[replace(BEST, **low)],
        base_test={"loss": 2.5},
        best_test={"loss": "nan"},
        against_base=better,
        against_base_test=high,
    )
    lines = best_lines(shown)
    assert lines[0] == "base model: loss 2.5, accuracy 0.25 (0.1 to 0.4)"
    assert lines[1] == "best trial: 0, batch 9: loss 0.125, accuracy 0.25 (0.1 to 0.4)"
    assert lines[2] == (
        "against the base model: loss -2.375 (-95 %), accuracy +0.25 (+0.125 to +0.375)"
    )
    assert lines[-2:] == ["test set: base model loss 2.5", "test set: best trial loss nan"]


def test_warnings_are_counted_in_the_table_and_told_below_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warnings = [
        {"name": "exploding_gradients", "step": 30, "message": "the norm is 50, usually 1"},
        {"name": "overfitting", "step": 90, "message": "the loss is 2"},
    ]
    warned = replace(SNAPSHOT, trials=[replace(BEST, warnings=warnings), RUNNING])
    lines = drawn(warned)
    cells = [line.split("│")[0].strip() for line in lines]
    assert "0 * !2" in cells
    assert "1" in cells
    assert lines[-1] == "! warnings, told by: hpo study show tiny"
    told = [
        "trial 0, batch 30: exploding_gradients: the norm is 50, usually 1",
        "trial 0, batch 90: overfitting: the loss is 2",
    ]
    assert warning_lines(warned) == told
    shown = Lines()
    shown.update(warned)
    shown.update(warned)
    assert capsys.readouterr().out.splitlines()[-2:] == told
    assert capsys.readouterr().out == ""
    assert not any("!" in line for line in drawn(SNAPSHOT))


def test_lines_tell_each_event_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    started = replace(RUNNING, rungs=[])
    lines.update(replace(SNAPSHOT, trials=[started], best=None))
    lines.update(replace(SNAPSHOT, trials=[started], best=None))
    lines.update(replace(SNAPSHOT, trials=[RUNNING], best=None))
    lines.update(replace(SNAPSHOT, trials=[BEST, RUNNING, PRUNED]))
    assert capsys.readouterr().out.splitlines() == [
        "base model: loss 2.5, accuracy 0",
        "trial 1 started: optimizer.learning_rate=0.0001235, method=lora",
        "trial 1: loss 0.5, rank 1 of 3 at 100: goes on",
        "trial 0 complete: trained all, the best so far",
        "trial 2 pruned: loss 0.75",
    ]


def test_a_trial_that_is_still_drawn_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    undrawn = replace(RUNNING, parameters={}, rungs=[], attempts=0)
    Lines().update(replace(SNAPSHOT, trials=[undrawn], base=None))
    assert capsys.readouterr().out == ""


def test_a_specification_in_a_few_lines() -> None:
    assert spec_lines(load_study("math-sft-asha", {})) == [
        "study math-sft-asha: minimize loss, 20 trials, sampler tpe, pruner asha",
        "rungs at 32000, 96000, 288000, ... training examples",
        "  optimizer.learning_rate: 5e-06 to 0.0001, log scale",
        "  optimizer.weight_decay: 0 to 0.1",
        "  effective_batch_size: one of 32, 64, 128, 256",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (0.000123456, "0.0001235"), (64, "64"), ("nan", "nan")],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert number(value) == text
