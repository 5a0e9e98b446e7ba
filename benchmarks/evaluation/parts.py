"""Where the time of an evaluation went, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from pydantic import BaseModel


class Parts(BaseModel):
    """One evaluation; times are wall-clock seconds."""

    address: str
    """The checkpoint."""
    loss: float
    answers: list[str]
    accuracy: float
    seconds: float
    """From the end of the evaluation before it to the end of its own."""
    load: float
    """The checkpoint into the engines; building and closing one, where that is done."""
    generate: float
    grade: float
    """Waiting for grades once the answers were written."""
    switch: float
    """Handing over from the one engine to the other."""
    forward: float
    """Forward passes of the loss."""
    report: float
    """The result into the database, and the value to Optuna."""

    @property
    def overhead(self) -> float:
        """Seconds besides generation, grading and forward passes."""
        return self.seconds - self.generate - self.grade - self.forward

    @property
    def rest(self) -> float:
        """Overhead that has no name: the claim, checksums, packing the answers."""
        return self.overhead - self.load - self.switch - self.report

    @property
    def share(self) -> float:
        """Overhead as a share of the evaluation."""
        return self.overhead / self.seconds


class Evaluated(BaseModel):
    """Evaluations one after another."""

    parts: list[Parts]
    memory: str = ""
    """How the engines shared the device, and why."""
    load_average: float

    def median(self, of: Callable[[Parts], float]) -> float:
        """Over the evaluations."""
        return median(map(of, self.parts))


def largest_difference(one: Sequence[Parts], other: Sequence[Parts]) -> float:
    """Of the losses of the same checkpoint. Raises ValueError for other checkpoints."""
    if [part.address for part in one] != [part.address for part in other]:
        raise ValueError("the two ways did not evaluate the same checkpoints")
    return max(abs(a.loss - b.loss) for a, b in zip(one, other, strict=True))


def other_answers(one: Sequence[Parts], other: Sequence[Parts]) -> int:
    """Answers that differ between two ways."""
    pairs = zip(one, other, strict=True)
    return sum(
        first != second
        for a, b in pairs
        for first, second in zip(a.answers, b.answers, strict=True)
    )
