"""Signs of ill health: functions of what training and evaluation report.

Every threshold is ours. They are set so that a healthy run raises no alarm:
medians over windows, so that one odd step counts for nothing, and nothing is
said before there is enough to judge by. A short trial is never judged.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from hpo.search.course import Point
from workers.trial.loop.report import StepReport

GIB = 1 << 30
WINDOW = 25
"""Optimizer steps whose median is taken."""


@dataclass(frozen=True)
class HealthWarning:
    """One thing that goes wrong in a trial."""

    name: str
    step: int
    """The optimizer step at which it was noticed."""
    message: str
    """What was seen, and what to do about it."""

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"name": self.name, "step": self.step, "message": self.message}


class LossNotDecreasing:
    """`loss_not_decreasing`: the training loss has never been lower than at the start.

    Judged once half the trial and 100 steps beyond the warm-up have passed:
    no window of 25 steps has a median below that of the first, by more than
    twice the standard error of their difference, and neither is the usual window
    below it, by more than half that error: a small fall shows in many windows
    before it shows in one. Harder data later on, as in a curriculum, is no
    alarm, since the loss had fallen before. An attempt that resumed has not
    seen the start and does not judge.
    """

    name = "loss_not_decreasing"
    least_steps = 100

    def __init__(self, total_steps: int) -> None:
        self._half = total_steps / 2
        self._first: list[float] = []
        self._window: list[float] = []
        self._medians: list[float] = []
        self._rate = -math.inf
        self._beyond_warmup = 0

    def step(self, report: StepReport) -> str | None:
        """What is seen in a step, if it is a sign of this."""
        self._beyond_warmup += report.learning_rate <= self._rate
        self._rate = report.learning_rate
        if report.step <= WINDOW:
            self._first.append(report.loss)
        if report.step <= WINDOW or len(self._first) < WINDOW:
            return None
        self._window.append(report.loss)
        if len(self._window) < WINDOW:
            return None
        self._medians.append(median(self._window))
        self._window.clear()
        if report.step < self._half or self._beyond_warmup < self.least_steps:
            return None
        return self._judge(report.step)

    def _judge(self, step: int) -> str | None:
        start, error = median(self._first), _error_of_difference(self._first)
        lowest, usual = min(self._medians), median(self._medians)
        if lowest < start - 2 * error or usual < start - 0.5 * error:
            return None
        return (
            f"after {step} steps the training loss has not fallen: {start:.4g} over the first "
            f"{WINDOW} steps, {lowest:.4g} at the best later on; try another learning rate "
            "(higher where it stands still, lower where it rises), a longer warm-up, and look at "
            "the data: what is learned of it, its labels, its order"
        )


class Overfitting:
    """`overfitting`: the validation loss is far above the training loss and falls no more.

    At an evaluation that is no better than an earlier one, the validation
    loss is 1.5 times the median training loss of the 25 steps before, and 0.1
    nats per token above it.
    """

    name = "overfitting"
    ratio = 1.5
    gap = 0.1

    def __init__(self) -> None:
        self._begin = 0
        self._losses = array("d")
        self._lowest = math.inf

    def step(self, report: StepReport) -> None:
        """Remember a step's loss; answers come long after."""
        if not self._losses:
            self._begin = report.step
        self._losses.append(report.loss)

    def point(self, point: Point) -> str | None:
        """What is seen in an evaluation, if it is a sign of this."""
        loss = point.value("loss")
        if loss is None:
            return None
        lowest, self._lowest = self._lowest, min(self._lowest, loss)
        # A resumed attempt knows the losses from there on.
        end = point.step - self._begin + 1
        window = self._losses[max(0, end - WINDOW) : max(0, end)]
        if len(window) < WINDOW or loss < lowest or math.isinf(lowest):
            return None
        trained = median(window)
        if loss < self.ratio * trained or loss < trained + self.gap:
            return None
        return (
            f"at batch {point.step} the validation loss is {loss:.4g} where the training loss is "
            f"{trained:.4g}, and it was {lowest:.4g} before; train for fewer epochs, stop early "
            "(evaluation.early_stopping), or regularise: weight decay, dropout, label smoothing, "
            "a lower rank, more data"
        )


class ExplodingGradients:
    """`exploding_gradients`: gradients are suddenly ten times as large, and stay so.

    The norm before clipping of 3 in the last 10 steps is 10 times the median
    of the 50 steps before those.
    """

    name = "exploding_gradients"
    factor = 10.0
    recent, reference, most = 10, 50, 3

    def __init__(self) -> None:
        self._norms: list[float] = []

    def step(self, report: StepReport) -> str | None:
        """What is seen in a step, if it is a sign of this."""
        self._norms.append(report.gradient_norm)
        if len(self._norms) < self.reference + self.recent:
            return None
        del self._norms[: -self.reference - self.recent]
        usual = median(self._norms[: self.reference])
        large = [n for n in self._norms[self.reference :] if n > self.factor * usual > 0]
        if len(large) < self.most:
            return None
        return (
            f"at step {report.step} the gradient norm is {median(large):.3g}, usually {usual:.3g}; "
            "lower the learning rate, lengthen the warm-up, clip at a lower norm "
            "(training.gradient_clipping), or look for odd examples in the data"
        )


class ThroughputDropping:
    """`throughput_dropping`: training has become much slower, for minutes.

    The median tokens per second of the last 25 steps, which took a minute at
    least, and that of the 25 before, are below 0.4 of that of the first 25
    after 10 steps. That is below what R-Drop costs, which may start later.
    Counting starts anew when the micro-batch changes.
    """

    name = "throughput_dropping"
    share = 0.4
    skipped = 10
    least_seconds = 60.0

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, micro_batch: int | None) -> None:
        self._micro_batch = micro_batch
        self._skipped = 0
        self._first: list[float] = []
        self._last: list[tuple[float, float]] = []

    def step(self, report: StepReport) -> str | None:
        """What is seen in a step, if it is a sign of this."""
        if report.micro_batch != self._micro_batch:
            self._begin(report.micro_batch)
        rate = report.input_tokens / report.seconds
        if self._skipped < self.skipped:
            self._skipped += 1
        elif len(self._first) < WINDOW:
            self._first.append(rate)
        else:
            self._last = [*self._last[1 - 2 * WINDOW :], (rate, report.seconds)]
            return self._judge(report.step)
        return None

    def _judge(self, step: int) -> str | None:
        recent = self._last[-WINDOW:]
        if len(self._last) < 2 * WINDOW or sum(s for _, s in recent) < self.least_seconds:
            return None
        usual, now = median(self._first), median(rate for rate, _ in recent)
        before = median(rate for rate, _ in self._last[:WINDOW])
        if max(now, before) > self.share * usual:
            return None
        return (
            f"at step {step} training takes {now:.3g} tokens per second, at first {usual:.3g}; "
            "look at what else runs on the device, its temperature and clock, whether memory is "
            "swapped, and whether the examples have become longer"
        )


@dataclass(frozen=True)
class Memory:
    """Memory of the device that trains, in bytes."""

    used: int
    """The most that this process had since the last look."""
    limit: int
    """What this process could use."""


class MemoryCloseToLimit:
    """`memory_close_to_limit`: more than 95 % of what the process could use is in use.

    Seen twice in a row, ten steps apart. A change of the micro-batch, which
    comes of memory that ran out, is answered already: the peak before it
    does not count.
    """

    name = "memory_close_to_limit"
    share = 0.95
    every = 10

    def __init__(self, look: Callable[[], Memory]) -> None:
        self._look = look
        self._micro_batch: int | None = None
        self._close = 0

    def step(self, report: StepReport) -> str | None:
        """What is seen in a step, if it is a sign of this."""
        changed = self._micro_batch not in (None, report.micro_batch)
        self._micro_batch = report.micro_batch
        if changed:
            self._look()
        if changed or report.step % self.every:
            return None
        memory = self._look()
        self._close = self._close + 1 if memory.used > self.share * memory.limit else 0
        if self._close < 2:
            return None
        return (
            f"at step {report.step} {memory.used / GIB:.3g} GiB of {memory.limit / GIB:.3g} GiB "
            "are in use; lower training.max_length or the micro-batch "
            "(training.compute.micro_batch), switch gradient checkpointing on, or train adapters"
        )


def _error_of_difference(losses: Sequence[float]) -> float:
    """Standard error of the difference of two medians of as many values, robustly.

    The median's is √(π/2) that of the mean; 1.4826 times the median absolute
    deviation is the standard deviation of normal noise.
    """
    middle = median(losses)
    deviation = 1.4826 * median(abs(loss - middle) for loss in losses)
    return deviation * math.sqrt(math.pi / 2) * math.sqrt(2 / len(losses))
