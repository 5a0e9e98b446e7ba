"""Every sign of ill health on synthetic curves: when it is told, and when it is not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from hpo.search.course import Point
from workers.trial.health.memory import memory_of
from workers.trial.health.signs import HealthWarning, Memory
from workers.trial.health.watch import HealthWatch
from workers.trial.loop.report import StepReport

ROOMY = Memory(used=1 << 30, limit=64 << 30)
TOTAL = 600


def report(step: int, **fields: Any) -> StepReport:
    defaults: dict[str, Any] = {
        "step": step,
        "examples": 8 * step,
        "loss": 2.0,
        "objective": 2.0,
        "tokens": 800,
        "input_tokens": 1000,
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        "micro_batch": 8,
        "seconds": 5.0,
    }
    return StepReport(**{**defaults, **fields})


class Course:
    """A watched trial."""

    def __init__(
        self, total: int = TOTAL, look: Callable[[], Memory] = lambda: ROOMY, told: str = ""
    ) -> None:
        self.warnings: list[HealthWarning] = []
        self.watch = HealthWatch(total, look, frozenset(told.split()), self.warnings.append)

    def train(self, first: int, last: int, **curves: Callable[[int], float]) -> list[str]:
        """Steps first to last, each field a function of the step; the names told so far."""
        for step in range(first, last + 1):
            self.watch.train(report(step, **{name: of(step) for name, of in curves.items()}))
        return self.names

    def evaluate(self, step: int, loss: float) -> list[str]:
        self.watch.evaluation(Point(step, 8 * step, None, "c", {"loss": loss}))
        return self.names

    @property
    def names(self) -> list[str]:
        return [warning.name for warning in self.warnings]


def noise(seed: int, size: float) -> Callable[[int], float]:
    """A number per step, the same at every call."""
    return lambda step: random.Random(f"{seed} {step}").gauss(0, size)


def cosine(step: int) -> float:
    """Warm-up over a tenth, then cosine decay."""
    warmup = TOTAL / 10
    if step <= warmup:
        return 1e-3 * step / warmup
    return 5e-4 * (1 + math.cos(math.pi * (step - warmup) / (TOTAL - warmup)))


def falling(step: int) -> float:
    return 1.2 + 0.5 * math.exp(-step / 150)


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_told_nothing(seed: int) -> None:
    course = Course()
    loss, norm, speed = noise(seed, 0.12), noise(seed + 1000, 0.5), noise(seed + 2000, 0.3)
    for begin in range(0, TOTAL, 100):
        course.train(
            begin + 1,
            begin + 100,
            loss=lambda step: falling(step) + loss(step),
            gradient_norm=lambda step: (1 + 10 * math.exp(-step / 20)) * math.exp(norm(step)),
            seconds=lambda step: 5 * math.exp(speed(step)) + 100 * (step == 1),
            learning_rate=cosine,
        )
        course.evaluate(begin + 100, falling(begin + 100) + 0.1)
    assert course.warnings == []


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_of_ten_steps_is_told_nothing(seed: int) -> None:
    wild = noise(seed, 3)
    course = Course(total=10)
    course.train(1, 10, loss=lambda s: 9 + s, gradient_norm=lambda s: math.exp(wild(s)))
    course.evaluate(5, 50.0)
    assert course.evaluate(10, 90.0) == []


@pytest.mark.parametrize(
    "loss",
    [lambda step: 2.0, lambda step: 2.0 + step / 200, lambda step: 2 + 0.1 * math.sin(step)],
    ids=["flat", "rising", "wavering"],
)
def test_a_loss_that_never_falls_is_told_after_half_the_trial(
    loss: Callable[[int], float],
) -> None:
    course = Course()
    assert course.train(1, TOTAL // 2 - 1, loss=loss) == []
    assert course.train(TOTAL // 2, TOTAL, loss=loss) == ["loss_not_decreasing"]
    (warning,) = course.warnings
    assert warning.step == TOTAL // 2
    assert "has not fallen" in warning.message
    assert "learning rate" in warning.message


def test_a_noisy_loss_that_never_falls_is_told_mostly() -> None:
    told = 0
    for seed in range(20):
        course, odd = Course(), noise(seed, 0.2)
        told += bool(course.train(1, TOTAL, loss=lambda step, odd=odd: 2 + odd(step)))  # type: ignore[misc]
    assert told >= 10


def test_a_warm_up_may_take_its_time() -> None:
    course = Course()
    rate = lambda step: 1e-6 * step  # noqa: E731
    assert course.train(1, TOTAL, learning_rate=rate) == []


def test_harder_data_later_on_is_no_rise() -> None:
    course = Course()
    course.train(1, 150, loss=lambda step: 2 - step / 200)
    assert course.train(151, TOTAL, loss=lambda step: 2.5) == []


def test_an_attempt_that_did_not_see_the_start_does_not_judge_the_loss() -> None:
    assert Course().train(200, TOTAL) == []


def scored(course: Course, losses: Sequence[float], *, every: int = 50) -> list[str]:
    for index, loss in enumerate(losses, 1):
        course.evaluate(index * every, loss)
    return course.names


def test_a_validation_loss_far_above_the_training_loss_is_told_once_it_rises() -> None:
    course = Course()
    course.train(1, 300, loss=lambda step: 2 * math.exp(-step / 100))
    assert scored(course, [1.5, 1.2, 1.1]) == []
    assert course.evaluate(200, 1.3) == ["overfitting"]
    (warning,) = course.warnings
    assert warning.step == 200
    assert "validation loss is 1.3 where the training loss is 0.30" in warning.message


@pytest.mark.parametrize(
    ("trained", "losses"),
    [
        (0.2, [1.5, 1.2, 1.1, 1.0, 0.9]),
        (1.0, [1.1, 1.0, 1.2, 1.3, 1.4]),
        (0.01, [0.05, 0.04, 0.05, 0.06, 0.07]),
    ],
    ids=["still falling", "close by", "both tiny"],
)
def test_no_overfitting(trained: float, losses: list[float]) -> None:
    course = Course(told="loss_not_decreasing")
    course.train(1, 300, loss=lambda step: trained)
    assert scored(course, losses) == []


def test_evaluations_from_before_a_resumption_are_not_judged_again() -> None:
    course = Course()
    course.train(200, 300, loss=lambda step: 0.2)
    assert scored(course, [1.0, 1.5, 1.5]) == []
    assert course.evaluate(250, 1.5) == ["overfitting"]


def test_a_metric_that_is_not_finite_is_no_point_to_judge() -> None:
    course = Course(told="loss_not_decreasing")
    course.train(1, 300, loss=lambda step: 0.2)
    course.watch.evaluation(Point(100, 800, None, "c", {"loss": "nan"}))
    assert course.names == []


def test_gradients_that_grow_tenfold_are_told() -> None:
    course = Course(told="loss_not_decreasing")
    norm = noise(0, 0.3)
    assert course.train(1, 200, gradient_norm=lambda s: math.exp(norm(s))) == []
    course.train(201, 210, gradient_norm=lambda s: 30 * math.exp(norm(s)))
    assert course.names == ["exploding_gradients"]
    assert course.warnings[0].step == 203
    assert "training.gradient_clipping" in course.warnings[0].message


def test_single_large_gradients_and_growth_from_nothing_are_healthy() -> None:
    course = Course(told="loss_not_decreasing")
    assert course.train(1, 200, gradient_norm=lambda s: 100.0 if s % 20 == 0 else 1.0) == []
    course = Course(told="loss_not_decreasing")
    assert course.train(1, 200, gradient_norm=lambda s: 0.0 if s < 100 else 1.0) == []


def test_training_that_becomes_much_slower_for_minutes_is_told() -> None:
    course = Course(told="loss_not_decreasing")
    assert course.train(1, 100) == []
    assert course.train(101, 125, seconds=lambda s: 20.0) == []
    assert course.train(126, 150, seconds=lambda s: 20.0) == ["throughput_dropping"]
    assert "50 tokens per second, at first 200" in course.warnings[0].message


@pytest.mark.parametrize(
    "curves",
    [
        {"seconds": lambda s: 500.0 if s % 10 == 0 else 5.0},
        {"seconds": lambda s: 0.005 if s < 100 else 0.05},
        {"seconds": lambda s: 5.0 if s < 100 else 11.0},
        {"seconds": lambda s: 5.0 if s < 100 else 50.0, "micro_batch": lambda s: 8 - 4 * (s > 99)},
        {"seconds": lambda s: 5.0 * (1 + s // 100), "input_tokens": lambda s: 900 * (1 + s // 100)},
    ],
    ids=["single slow steps", "slow for seconds", "R-Drop", "micro-batch halved", "longer ones"],
)
def test_no_drop_of_throughput(curves: dict[str, Callable[[int], float]]) -> None:
    assert Course(told="loss_not_decreasing").train(1, 300, **curves) == []


def test_memory_close_to_its_limit_is_told_when_seen_twice() -> None:
    looks = iter([50, 98, 50, 98, 98, 98])
    course = Course(look=lambda: Memory(next(looks), 100))
    assert course.train(1, 49) == []
    assert course.train(50, 59) == ["memory_close_to_limit"]
    assert "gradient checkpointing" in course.warnings[0].message


def test_memory_that_ran_out_and_was_dealt_with_is_not_told() -> None:
    looks = iter([98, 100, 50, 50, 50])
    course = Course(look=lambda: Memory(next(looks), 100))
    assert course.train(1, 40, micro_batch=lambda step: 8 if step < 15 else 4) == []


def test_the_memory_of_this_process_lies_within_its_limit() -> None:
    memory = memory_of(torch.device("cpu"))
    assert 1 << 20 < memory.used < memory.limit


def test_each_warning_is_told_once_per_trial_whatever_the_attempt() -> None:
    told = "loss_not_decreasing exploding_gradients overfitting"
    course = Course(told=told)
    course.train(1, TOTAL, gradient_norm=lambda s: 1.0 if s < 200 else 100.0, loss=lambda s: 0.2)
    assert scored(course, [1.0, 1.5, 1.6]) == []
    course = Course()
    course.train(1, TOTAL, gradient_norm=lambda s: 1.0 if s % 100 < 80 else 100.0)
    assert sorted(course.names) == ["exploding_gradients", "loss_not_decreasing"]
