import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_lab import config, weights
from torch import nn
from torch.optim import SGD
from transformers import get_scheduler

from hpo.spec.training.optimizer import Schedule
from workers.trial.failures import InvalidTrial
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.groups import peak_rate
from workers.trial.optimizer.schedule import make_schedule, warmup_steps


def flat() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def rates(schedule: Schedule, total: int) -> list[float]:
    """Learning rates of all steps, and the one after them, with a peak of 1."""
    optimizer = flat()
    return followed(optimizer, make_schedule(schedule, optimizer, total), total)


def followed(optimizer: Any, schedule: Any, total: int) -> list[float]:
    seen = [float(schedule.get_last_lr()[0])]
    for _ in range(total):
        optimizer.step()
        schedule.step()
        seen.append(float(schedule.get_last_lr()[0]))
    return seen


def linear(after: int, steps: int) -> float:
    return 1 - after / steps


def cosine(after: int, steps: int) -> float:
    return (1 + math.cos(math.pi * after / steps)) / 2


def three_waves(after: int, steps: int) -> float:
    if after == steps:
        return 0
    lap = steps / 3
    # Restarts that fall on a step begin at the peak.
    begun = round(after / lap) if abs(after / lap - round(after / lap)) < 1e-9 else after // lap
    return (1 + math.cos(math.pi * (after - begun * lap) / lap)) / 2


def last_quarter(after: int, steps: int) -> float:
    """WSD in a trial of 24 steps, six of which decay."""
    return min(1, (steps - after) / 6)


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize(
    ("spec", "formula"),
    [
        ({"type": "linear"}, linear),
        ({"type": "cosine"}, cosine),
        ({"type": "cosine-restarts"}, cosine),
        ({"type": "cosine-restarts", "cycles": 3}, three_waves),
        ({"type": "wsd", "decay_ratio": 0.25}, last_quarter),
    ],
)
def test_every_rate_is_what_the_formula_says(
    spec: dict[str, Any], formula: Callable[[int, int], float], warmup: int
) -> None:
    seen = rates(Schedule(warmup_steps=warmup, **spec), 24)
    rising = [step / warmup for step in range(warmup)]
    falling = [formula(after, 24 - warmup) for after in range(25 - warmup)]
    assert seen == pytest.approx([*rising, *falling], abs=1e-12)


def test_a_constant_rate_stays() -> None:
    seen = rates(Schedule(type="constant", warmup_steps=2), 5)
    assert seen == [0, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("total", [7, 24, 100])
@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        (Schedule(type="linear", warmup_ratio=0.15), "linear", {}),
        (Schedule(type="cosine", warmup_ratio=0.15), "cosine", {}),
        (
            Schedule(type="cosine-restarts", warmup_ratio=0.15, cycles=2),
            "cosine_with_restarts",
            {"num_cycles": 2},
        ),
        (Schedule(type="constant", warmup_ratio=0.15), "constant_with_warmup", {}),
        (
            Schedule(type="wsd", warmup_ratio=0.15, decay_ratio=0.5),
            "warmup_stable_decay",
            {"decay_type": "linear"},
        ),
    ],
    ids=str,
)
def test_the_rates_are_those_of_transformers(
    spec: Schedule, name: str, options: dict[str, Any], total: int
) -> None:
    if spec.type == "wsd":
        options = {**options, "num_decay_steps": math.ceil(total / 2)}
    optimizer = flat()
    theirs = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=math.ceil(0.15 * total),
        num_training_steps=total,
        scheduler_specific_kwargs=options,
    )
    wanted = followed(optimizer, theirs, total)
    assert rates(spec, total) == pytest.approx(wanted, abs=1e-12)


def test_warmup_is_given_in_steps_or_as_a_ratio() -> None:
    assert warmup_steps(Schedule(), 100) == 0
    assert warmup_steps(Schedule(warmup_steps=7), 100) == 7
    assert warmup_steps(Schedule(warmup_ratio=0.125), 100) == 13
    assert warmup_steps(Schedule(warmup_ratio=0.07), 100) == 7


SPECS = st.one_of(
    st.builds(Schedule, type=st.sampled_from(["linear", "cosine", "constant"])),
    st.builds(
        Schedule,
        type=st.sampled_from(["linear", "cosine", "constant", "cosine-restarts"]),
        warmup_ratio=st.floats(0, 0.99),
    ),
    st.builds(
        Schedule,
        type=st.just("wsd"),
        warmup_ratio=st.floats(0, 0.5),
        decay_ratio=st.floats(0.01, 0.5),
    ),
)


@settings(deadline=None, max_examples=50)
@given(spec=SPECS, total=st.integers(1, 60))
def test_a_ratio_suits_every_length_and_reaches_the_peak(spec: Schedule, total: int) -> None:
    seen = rates(spec, total)[:total]
    assert max(seen) == 1
    assert all(0 <= rate <= 1 for rate in seen)
    assert seen[-1] > 0


@settings(deadline=None, max_examples=50)
@given(total=st.integers(4, 200), data=st.data())
def test_restarts_that_fall_on_a_step_begin_at_the_peak(total: int, data: st.DataObject) -> None:
    cycles = data.draw(st.integers(2, total // 2))
    seen = rates(Schedule(type="cosine-restarts", cycles=cycles), total)
    for cycle in range(cycles):
        if cycle * total % cycles == 0:
            assert seen[cycle * total // cycles] == 1
    assert seen[total] == 0


@pytest.mark.parametrize(
    ("spec", "total", "message"),
    [
        (
            Schedule(warmup_steps=10),
            10,
            "warmup_steps: given 10 in a trial of 10 optimizer steps; allowed: less than 10",
        ),
        (
            Schedule(type="cosine-restarts", cycles=5, warmup_steps=2),
            11,
            "cycles: given 5 in a trial of 11 optimizer steps; "
            "allowed: at most 4, half of the 9 steps after the warm-up",
        ),
        (
            Schedule(type="wsd", decay_ratio=0.5, warmup_steps=6),
            10,
            "decay_ratio: given 0.5 in a trial of 10 optimizer steps; "
            "allowed: at most 0.4, as 6 steps are warm-up",
        ),
    ],
)
def test_too_few_steps_for_a_schedule_are_refused(spec: Schedule, total: int, message: str) -> None:
    with pytest.raises(InvalidTrial) as raised:
        rates(spec, total)
    assert raised.value.message == f"training.schedule.{message}"


def test_wsd_decays_in_the_last_tenth_unless_told_otherwise() -> None:
    assert rates(Schedule(type="wsd"), 20)[-4:] == [1, 1, 0.5, 0]
    # The decay that nobody asked for takes what the warm-up leaves.
    assert rates(Schedule(type="wsd", warmup_steps=19), 20)[-3:] == pytest.approx([18 / 19, 1, 0])


def test_a_schedule_acts_on_the_peak_of_every_group() -> None:
    spec = config({"layer_decay": 0.5}, method={"type": "lora", "plus_ratio": 4})
    adapters = [
        (f"{name}.lora_{letter}.default.weight", weight)
        for letter in "AB"
        for name, weight in weights()
        if ".layers." in name
    ]
    optimizer = make_optimizer(spec, adapters)
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert sorted(peaks) == pytest.approx([0.0025, 0.005, 0.01, 0.02])
    schedule = make_schedule(Schedule(type="linear"), optimizer, 4)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.75 * peak for peak in peaks]
    )
    assert peak_rate(optimizer) == pytest.approx(0.75 * 0.01)
