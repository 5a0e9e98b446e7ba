"""What was measured of one way to run a study, and what the other way repeats."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from pydantic import BaseModel

from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig


class ReplayedTrial(BaseModel):
    """A trial as it went: what it trained with and where it was judged."""

    number: int
    training: TrainingConfig
    evaluated_steps: list[int]
    """Optimizer steps whose evaluation counted; the last one ended the trial."""


class Replay(BaseModel):
    """The trials of a study, to be run again with the same decisions."""

    spec: StudySpec
    trials: list[ReplayedTrial]


class Switch(BaseModel):
    """From one trial to the next; times are wall-clock seconds."""

    seconds: float
    """From a trial's last verdict until the next one has taken its first optimizer step."""
    first_step: float
    """What that step itself took."""


class Evaluation(BaseModel):
    """One evaluation; times are wall-clock seconds."""

    trial: int
    step: int
    loss: float
    accuracy: float
    seconds: float
    """From taking the checkpoint up to the score being stored."""
    load: float
    """Getting the checkpoint into the engines, and building and closing them if need be."""
    generate: float
    grade: float
    """Waiting for grades once the answers were written."""
    switch: float = 0.0
    """Handing the device over from one engine to the other."""
    forward: float
    """Forward passes of the loss."""

    @property
    def overhead(self) -> float:
        """Seconds that are neither generation nor grading nor forward passes."""
        return self.seconds - self.generate - self.grade - self.forward

    @property
    def other(self) -> float:
        """Overhead besides loading and switching: the queue and the database."""
        return self.overhead - self.load - self.switch

    @property
    def share(self) -> float:
        """Overhead as a share of the evaluation."""
        return self.overhead / self.seconds


class Measured(BaseModel):
    """One way to run a study; times are wall-clock seconds."""

    wall: float
    """From starting the first process until all have ended."""
    working: float
    """From everything being loaded for the first time to the last score."""
    switches: list[Switch]
    steps: int
    """Optimizer steps taken."""
    evaluations: list[Evaluation]
    """Evaluations that counted."""
    unused_evaluations: int
    """Further ones: the base model's, and those behind a trial's end."""
    load_average: float
    """Processes that were running or ready in the last minute, at the end."""

    def switch(self, of: Callable[[Switch], float]) -> float:
        """Median over the switches."""
        return median(map(of, self.switches))

    def evaluation(self, of: Callable[[Evaluation], float]) -> float:
        """Median over the evaluations."""
        return median(map(of, self.evaluations))


def largest_difference(one: Measured, other: Measured, of: Callable[[Evaluation], float]) -> float:
    """The largest difference between two scores of the same trial and step.

    Raises ValueError when the evaluations are not of the same trials and steps.
    """
    first, second = _by_checkpoint(one), _by_checkpoint(other)
    if first.keys() != second.keys():
        raise ValueError("the two ways did not evaluate the same trials and steps")
    return max(abs(of(evaluation) - of(second[key])) for key, evaluation in first.items())


def _by_checkpoint(measured: Measured) -> dict[tuple[int, int], Evaluation]:
    return {(one.trial, one.step): one for one in measured.evaluations}
