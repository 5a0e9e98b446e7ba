"""Learning-rate schedules from their specification."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hpo.spec.training.optimizer import Schedule
from workers.trial.failures import InvalidTrial
from workers.trial.rounding import rounded_up

DEFAULT_DECAY_RATIO = 0.1

Factor = Callable[[int], float]
"""From a number of steps taken to the next step's rate as a share of the peak."""


def make_schedule(spec: Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Learning rate over the optimizer steps of a whole trial, warm-up first.

    It acts on each group's own peak. The n-th step of w warm-up steps has
    (n - 1) / w of the peak, and a decay would reach zero one step after the
    last, as in transformers. Raises InvalidTrial where the trial has too few
    steps for the schedule.
    """
    warmup = warmup_steps(spec, total_steps)
    shape = _shape(spec, warmup, total_steps)

    def factor(step: int) -> float:
        return step / warmup if step < warmup else shape(step)

    return LambdaLR(optimizer, factor)


def warmup_steps(spec: Schedule, total_steps: int) -> int:
    """Optimizer steps of warm-up, given as steps or as a ratio.

    A ratio is rounded up, but leaves a step at the peak. Raises InvalidTrial
    when so many steps leave none.
    """
    if spec.warmup_ratio is not None:
        return min(rounded_up(spec.warmup_ratio * total_steps), total_steps - 1)
    steps = spec.warmup_steps or 0
    if steps >= total_steps:
        raise _too_few("warmup_steps", steps, total_steps, f"less than {total_steps}")
    return steps


def _shape(spec: Schedule, warmup: int, total: int) -> Factor:
    """What comes after the warm-up."""
    steps = total - warmup
    match spec.type:
        case "constant":
            return lambda step: 1.0
        case "linear":
            return lambda step: _falling(step - warmup, steps)
        case "cosine":
            return lambda step: _half_wave(step - warmup, steps)
        case "cosine-restarts":
            cycles = _cycles(spec, steps, total)
            return lambda step: _waves(step - warmup, steps, cycles)
        case "wsd":
            decay = _decay_steps(spec, warmup, total)
            return lambda step: min(1.0, _falling(step - (total - decay), decay))


def _falling(step: int, steps: int) -> float:
    return max(0.0, (steps - step) / steps)


def _half_wave(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _waves(step: int, steps: int, cycles: int) -> float:
    """Half waves from one to zero (arXiv:1608.03983); whole numbers find the restarts."""
    return _half_wave(cycles * step % steps, steps) if step < steps else 0.0


def _cycles(spec: Schedule, steps: int, total: int) -> int:
    cycles = spec.cycles or 1
    # A wave of one step would be a constant rate.
    if cycles > 1 and 2 * cycles > steps:
        allowed = f"at most {steps // 2}, half of the {steps} steps after the warm-up"
        raise _too_few("cycles", cycles, total, allowed)
    return cycles


def _decay_steps(spec: Schedule, warmup: int, total: int) -> int:
    """Steps in which `wsd` decays: a share of all steps, rounded up."""
    ratio = DEFAULT_DECAY_RATIO if spec.decay_ratio is None else spec.decay_ratio
    decay = rounded_up(ratio * total)
    if spec.warmup_steps and spec.decay_ratio is not None and warmup + decay > total:
        allowed = f"at most {(total - warmup) / total:.3g}, as {warmup} steps are warm-up"
        raise _too_few("decay_ratio", spec.decay_ratio, total, allowed)
    return min(decay, total - warmup)


def _too_few(field: str, given: float, total: int, allowed: str) -> InvalidTrial:
    return InvalidTrial(
        f"training.schedule.{field}: given {given:g} in a trial of {total} optimizer steps; "
        f"allowed: {allowed}"
    )
