"""Examples of high loss more often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hpo.spec.training.order import DynamicCurriculum
from workers.data.batches.curriculum import CurriculumOrder
from workers.data.batches.plain import PlainOrder
from workers.data.tokens.arrays import Integers

Floats = npt.NDArray[np.float64]

LARGEST_EXPONENT = 600.0
"""Odds are kept between e^-600 and e^600, so that sums of them are finite and none is zero."""


class LossOrder:
    """The usual order in the warm-up, then examples in proportion to loss^strength.

    The definition is ours. A batch is drawn without replacement: one example
    after another, with probabilities in proportion to the odds of those that
    are left. The loss of an example is the mean loss per learned token when it
    was seen last; one that was never seen counts as the mean of those that
    were. With a curriculum, its pool is drawn from. The draws of a step depend
    on (seed, step) and the losses alone.
    """

    def __init__(
        self, spec: DynamicCurriculum, usual: PlainOrder | CurriculumOrder, count: int
    ) -> None:
        self._spec = spec
        self._usual = usual
        self._ranks: Integers = np.argsort(usual.ranking)
        self._losses = np.full(count, np.nan, np.float32)
        # From easy to hard, so that the odds of a pool are the first ones.
        self._odds = np.full(count, np.nan)

    @property
    def wants_losses(self) -> bool:
        """Always, in the warm-up too."""
        return True

    def batch(self, step: int) -> list[int]:
        """Examples of an optimizer step, counted from 0."""
        usual, count = self._usual, len(self._losses)
        if step * usual.size / count < self._spec.warmup_epochs:
            return usual.batch(step)
        odds = self._known_odds(usual.pool(step))
        # The last number keeps these draws apart from those of other orders.
        random = np.random.default_rng((usual.seed, step, 3))
        places: list[int] = []
        while len(places) < usual.size:
            places += draw(odds, min(usual.size - len(places), len(odds)), random)
        indices: list[int] = usual.ranking[places].tolist()
        return indices

    def observe(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """Note the mean loss per learned token, in nats, of examples just trained on."""
        seen = np.asarray(indices, np.int64)
        self._losses[seen] = losses
        self._odds[self._ranks[seen]] = self._odds_of(self._losses[seen])

    def state(self) -> dict[str, Any]:
        """A copy of the losses, float32 and NaN where none was observed."""
        return {"losses": torch.from_numpy(self._losses.copy())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same examples. Raises ValueError for another's."""
        losses = state["losses"].numpy()
        if losses.shape != self._losses.shape:
            raise ValueError(f"losses of {len(losses)} examples, not of {len(self._losses)}")
        self._losses = losses.copy()
        self._odds = self._odds_of(losses)[self._usual.ranking]

    def _odds_of(self, losses: npt.NDArray[np.float32]) -> Floats:
        above_zero = np.maximum(losses.astype(np.float64), np.finfo(np.float32).tiny)
        powers = self._spec.strength * np.log(above_zero)
        odds: Floats = np.exp(np.clip(powers, -LARGEST_EXPONENT, LARGEST_EXPONENT))
        return odds

    def _known_odds(self, pool: int) -> Floats:
        """Odds of the easiest examples, those of the mean loss where none was observed."""
        odds = self._odds[:pool]
        unseen = np.isnan(odds)
        if not unseen.any():
            return odds
        known = self._losses[~np.isnan(self._losses)]
        mean = known.mean(keepdims=True, dtype=np.float64) if len(known) else np.ones(1)
        return np.where(unseen, self._odds_of(mean.astype(np.float32)), odds)


def draw(odds: Floats, number: int, random: np.random.Generator) -> list[int]:
    """Distinct places, one after another in proportion to the odds of those left.

    Points on the line of all odds are thrown until enough different places
    are hit: a repeated hit changes nothing about what the next one may be.
    Raises ValueError where there are fewer places than asked for.
    """
    if number > len(odds):
        raise ValueError(f"number must be at most {len(odds)}, not {number}")
    chosen: list[int] = []
    while True:
        line = np.cumsum(odds)
        missing = number - len(chosen)
        # Some to spare, as few are repeated hits as a rule.
        points = random.random(missing + missing // 4 + 4) * line[-1]
        # The first hit of each place, in the order of the hits.
        hits = dict.fromkeys(np.searchsorted(line, points, side="right").tolist())
        chosen += list(hits)[:missing]
        if len(chosen) == number:
            return chosen
        odds = odds.copy()
        odds[chosen] = 0.0
