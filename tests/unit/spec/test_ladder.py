from __future__ import annotations

import pytest

from hpo.spec.ladder import Ladder

LADDER = Ladder(min_resource=300, reduction_factor=3)


@pytest.mark.parametrize(
    ("until", "rungs"),
    [(299, []), (300, [300]), (2699, [300, 900]), (2700, [300, 900, 2700])],
)
def test_rungs_grow_by_the_reduction_factor(until: int, rungs: list[int]) -> None:
    assert list(LADDER.rungs(until)) == rungs


@pytest.mark.parametrize(
    ("before", "after", "rung"),
    [
        (0, 299, None),
        (292, 300, 300),
        (299, 331, 300),
        (300, 308, None),
        (0, 1000, 900),
        (899, 900, 900),
        (900, 901, None),
    ],
)
def test_a_step_crosses_a_rung_once(before: int, after: int, rung: int | None) -> None:
    assert LADDER.crossed(before, after) == rung


@pytest.mark.parametrize("batch", [1, 7, 64, 128, 300])
def test_every_effective_batch_size_meets_every_rung_once(batch: int) -> None:
    crossed = [LADDER.crossed(seen, seen + batch) for seen in range(0, 9000, batch)]
    assert [rung for rung in crossed if rung is not None] == [300, 900, 2700, 8100]


def test_the_index_of_a_rung_counts_from_the_lowest() -> None:
    assert [LADDER.index(rung) for rung in (300, 900, 2700)] == [0, 1, 2]
    with pytest.raises(ValueError, match="301"):
        LADDER.index(301)
