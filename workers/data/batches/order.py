"""Which training examples make which batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.buckets import LengthBuckets
from workers.data.batches.curriculum import CurriculumOrder
from workers.data.batches.dynamic import LossOrder
from workers.data.batches.plain import PlainOrder
from workers.data.tokens.encoded import EncodedExample, counted_of, lengths_of


class Order(Protocol):
    """Indices of the examples of each optimizer step.

    They follow from the seed, the step and the losses that were observed
    alone: asked again, or in another run that was restored, a step has the
    same examples.
    """

    @property
    def wants_losses(self) -> bool:
        """Whether `observe` changes what comes."""

    def batch(self, step: int) -> list[int]:
        """Examples of an optimizer step, counted from 0."""

    def observe(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """Note the mean loss per learned token, in nats, of examples just trained on."""

    def state(self) -> dict[str, Any]:
        """A copy of what was observed, for `restore`."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same examples. Raises ValueError for another's."""


def make_order(
    config: TrainingConfig, examples: Sequence[EncodedExample], total_steps: int
) -> Order:
    """The order that a config asks for, over a trial of so many optimizer steps.

    Raises ValueError where there are no examples.
    """
    if not len(examples):
        raise ValueError("there are no examples to order")
    wanted, size = config.order, config.effective_batch_size
    seed = config.seed_of("data")
    plain = PlainOrder(len(examples), size, seed)
    if wanted.length_buckets:
        return LengthBuckets(plain, lengths_of(examples), wanted.length_buckets)
    usual: PlainOrder | CurriculumOrder = plain
    if wanted.curriculum is not None:
        difficulty = counted_of(examples)
        usual = CurriculumOrder(wanted.curriculum, difficulty, size, seed, total_steps)
    if wanted.dynamic_curriculum is None:
        return usual
    return LossOrder(wanted.dynamic_curriculum, usual, len(examples))
