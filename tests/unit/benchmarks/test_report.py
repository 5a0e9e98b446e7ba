from __future__ import annotations

import pytest

from benchmarks.measured import Evaluation, Measured, Switch, largest_difference
from benchmarks.report import ratio, report


def measured(*, loss: float = 1.0, step: int = 10, wall: float = 2.0) -> Measured:
    evaluation = Evaluation(
        trial=0,
        step=step,
        loss=loss,
        accuracy=0.5,
        seconds=4.0,
        load=0.25,
        generate=2.0,
        grade=0.5,
        switch=0.125,
        forward=1.0,
    )
    return Measured(
        wall=wall,
        working=1.0,
        switches=[Switch(seconds=0.5, first_step=0.125)],
        steps=10,
        evaluations=[evaluation],
        unused_evaluations=0,
        load_average=0.0,
    )


def test_overhead_is_what_is_neither_generation_nor_grading_nor_forward_passes() -> None:
    (evaluation,) = measured().evaluations
    assert evaluation.overhead == 0.5
    assert evaluation.share == 0.125
    assert evaluation.other == 0.125


def test_a_report_says_how_many_times_longer_the_plain_way_took() -> None:
    text = report("a title", measured(), measured(wall=7.0))
    assert "| whole study | 2.000 | 7.000 | 3.5 |" in text
    assert "| trial switch, up to that step | 0.375 | 0.375 | 1.0 |" in text


def test_no_ratio_to_less_than_a_millisecond() -> None:
    assert ratio(0.0005, 1.0) == ""


def test_the_same_work_gives_the_same_losses() -> None:
    assert largest_difference(measured(), measured(loss=1.5), lambda one: one.loss) == 0.5


def test_other_steps_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same trials and steps"):
        largest_difference(measured(), measured(step=11), lambda one: one.loss)
