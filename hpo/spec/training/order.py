"""In which order the training examples come."""

from __future__ import annotations

from hpo.spec.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, Strict
from hpo.spec.training.optimizer import PositiveShare


class Curriculum(Strict):
    """From easy to hard, the competence growing linearly (arXiv:1903.09848).

    An example is the harder the more tokens of it are learned.
    """

    start_fraction: PositiveShare = 0.7
    """Share of the examples, the easiest, that is drawn from at the start."""
    until: PositiveShare = 0.5
    """Share of the trial after which all examples are drawn from."""


class DynamicCurriculum(Strict):
    """Examples of high loss come more often. The definition is ours.

    After the warm-up an example is drawn with a probability in proportion to
    the loss it had when it was seen last, to the power of `strength`.
    """

    warmup_epochs: NonNegativeFloat = 1.0
    """Epochs of the order that is given otherwise, in which losses are collected."""
    strength: PositiveFloat = 1.0
    """Exponent of the loss."""


class Order(Strict):
    """The order of the training examples; a new shuffle each epoch by default."""

    curriculum: Curriculum | None = None
    """Easy examples first."""
    dynamic_curriculum: DynamicCurriculum | None = None
    """Hard examples more often."""
    length_buckets: NonNegativeInt = 0
    """Bucketing: the examples of so many batches are sorted by length and make
    batches of similar lengths, which come in random order; 0 is off."""
