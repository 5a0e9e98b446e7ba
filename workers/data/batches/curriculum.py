"""Easy examples first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo.spec.training.order import Curriculum
from workers.data.batches.plain import Unobserved
from workers.data.tokens.arrays import Integers


class CurriculumOrder(Unobserved):
    """Competence-based curriculum, linear (arXiv:1903.09848).

    After `t` of `T` steps the competence is c(t) = min(1, start_fraction +
    (1 - start_fraction) t / (until T)), and a batch is drawn from the easiest
    c(t) of the examples, at least one batch of them. An example is the harder
    the more tokens of it are learned; of two with as many, the later one.

    The paper draws uniformly from that pool. Fine-tuning takes few epochs, in
    which this would repeat some examples and never show others. Instead those
    of the pool that were seen least often come first, in random order: a
    hard example comes soon after it has entered, and none comes a third time
    while another has come only once. A trial of one epoch sees each example
    once, unless it starts with next to none. With everything in the pool,
    these are shuffled epochs.
    """

    def __init__(
        self, spec: Curriculum, difficulty: Integers, size: int, seed: int, total_steps: int
    ) -> None:
        self.size = size
        self.seed = seed
        self.ranking: Integers = np.argsort(difficulty, kind="stable")
        """All examples, from easy to hard."""
        self._start = spec.start_fraction
        self._ramp = spec.until * total_steps
        self._step = -1
        self._batch: list[int] = []
        self._pool = self._empty_pool()

    def batch(self, step: int) -> list[int]:
        """Examples of an optimizer step, counted from 0.

        What was seen before is played through again where steps are not asked
        for in their order, in about a second for a million examples.
        """
        if step < self._step:
            self._step, self._pool = -1, self._empty_pool()
        while self._step < step:
            self._step += 1
            self._pool.grow(self.ranking[: self.pool(self._step)])
            self._batch = self._pool.draw(self.size)
        return list(self._batch)

    def pool(self, step: int) -> int:
        """How many of the `ranking` a step draws from."""
        count = len(self.ranking)
        if step >= self._ramp:
            return count
        competence = self._start + (1 - self._start) * step / self._ramp
        return min(count, max(self.size, round(competence * count)))

    def _empty_pool(self) -> _Pool:
        # The last number keeps these draws apart from those of other orders.
        return _Pool(np.random.default_rng((self.seed, 0, 2)))


class _Pool:
    """Examples by how often they were drawn, each lot in uniformly random order."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._entered = 0
        self._drawn: dict[int, list[int]] = {}

    def grow(self, members: Integers) -> None:
        """Let in what `members` holds beyond those that are in already."""
        if len(members) > self._entered:
            self._add(0, members[self._entered :].tolist())
            self._entered = len(members)

    def draw(self, number: int) -> list[int]:
        """Examples drawn least often before; none twice unless there are fewer than `number`."""
        chosen: list[int] = []
        while len(chosen) < number:
            chosen += self._draw_distinct(min(number - len(chosen), self._entered))
        return chosen

    def _draw_distinct(self, number: int) -> list[int]:
        lots: list[tuple[int, list[int]]] = []
        missing = number
        while missing:
            times = min(self._drawn)
            lot = self._drawn[times]
            lots.append((times, lot[-missing:]))
            del lot[-missing:]
            if not lot:
                del self._drawn[times]
            missing -= len(lots[-1][1])
        for times, lot in lots:
            self._add(times + 1, lot)
        return [index for _, lot in lots for index in lot]

    def _add(self, times: int, indices: Sequence[int]) -> None:
        """Put examples among those drawn so many times, each at a random place."""
        if times not in self._drawn:
            self._drawn[times] = self._random.permutation(indices).tolist()
            return
        lot = self._drawn[times]
        places = self._random.integers(np.arange(len(lot), len(lot) + len(indices)) + 1)
        for index, place in zip(indices, places.tolist(), strict=True):
            lot.append(lot[place] if place < len(lot) else index)
            lot[place] = index
