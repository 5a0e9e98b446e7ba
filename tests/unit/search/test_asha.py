from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

import pytest
from search_lab import complete, created, study_spec

from hpo.search.asha import AshaPruner, Verdict, verdicts
from hpo.search.study import StudySearch

RUNGS = (100, 300, 900)
FACTOR = 3


@pytest.fixture(params=["loss", "accuracy"])
def search(request: pytest.FixtureRequest) -> StudySearch:
    return created(study_spec(metric=request.param))[0]


def worse(search: StudySearch, amount: float) -> float:
    """A value that is worse than 0.5 by an amount, for either direction."""
    return 0.5 + amount if search.spec.objective.metric == "loss" else 0.5 - amount


def judged(search: StudySearch, amount: float, rung: int = 100) -> Verdict:
    """The verdict on a new trial's value."""
    trial_id, _ = search.ask()
    return search.verdict(trial_id, rung, worse(search, amount))


def test_the_first_value_at_a_rung_goes_on(search: StudySearch) -> None:
    value = worse(search, 0.3)
    assert judged(search, 0.3) == Verdict(100, value, True, 1, 1, value)


def test_the_best_third_goes_on(search: StudySearch) -> None:
    for place, amount in enumerate((0.1, 0.2, 0.3, 0.4), start=1):
        assert judged(search, amount).keep is (place == 1)
    # Sixth of six would be last; second of six is within the best third.
    judged(search, 0.5)
    second = judged(search, 0.15)
    assert (second.rank, second.competitors, second.keep) == (2, 6, True)
    assert second.threshold == worse(search, 0.15)


def test_the_verdict_names_what_would_have_gone_on(search: StudySearch) -> None:
    for amount in (0.1, 0.2, 0.3, 0.4, 0.5):
        judged(search, amount)
    late = judged(search, 0.25)
    assert (late.rank, late.competitors, late.keep) == (3, 6, False)
    assert late.threshold == worse(search, 0.2)


def test_the_best_so_far_always_goes_on(search: StudySearch) -> None:
    for amount in (0.5, 0.4, 0.3, 0.2, 0.1):
        assert judged(search, amount).rank == 1


def test_equal_values_share_the_better_rank(search: StudySearch) -> None:
    for competitors in (1, 2, 3, 4):
        verdict = judged(search, 0.1)
        assert (verdict.rank, verdict.competitors, verdict.keep) == (1, competitors, True)
    worst = judged(search, 0.2)
    assert (worst.rank, worst.keep) == (5, False)


def test_rungs_are_apart(search: StudySearch) -> None:
    judged(search, 0.1)
    verdict = judged(search, 0.4, rung=300)
    assert (verdict.rank, verdict.competitors, verdict.keep) == (1, 1, True)


def test_only_decided_values_compete(search: StudySearch) -> None:
    for amount in (0.1, 0.2, 0.3):
        trial_id, _ = search.ask()
        assert search.report(trial_id, 100, worse(search, amount), earlier=[])
    verdict = judged(search, 0.4)
    assert (verdict.rank, verdict.competitors, verdict.keep) == (1, 1, True)


def test_a_verdict_outlives_what_comes_later(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    first = search.verdict(trial_id, 100, worse(search, 0.4))
    for amount in (0.1, 0.2, 0.3):
        judged(search, amount)
    assert search.verdict(trial_id, 100, worse(search, 0.4)) == first
    assert verdicts(search.fresh(trial_id)) == {100: first}


def test_finished_trials_go_on_competing() -> None:
    search, _ = created(study_spec())
    trial_id, _ = search.ask()
    search.verdict(trial_id, 100, 0.1)
    search.tell(trial_id, complete(0.1))
    assert judged(search, 0.2).competitors == 2


def test_optunas_own_interface_gives_the_stored_verdict(search: StudySearch) -> None:
    pruner = AshaPruner(FACTOR)
    judged(search, 0.1)
    trial_id, _ = search.ask()
    assert not pruner.prune(search.study, search.fresh(trial_id))
    search.report(trial_id, 100, worse(search, 0.4), earlier=[])
    assert pruner.prune(search.study, search.fresh(trial_id))
    search.verdict(trial_id, 100, worse(search, 0.4))
    assert pruner.prune(search.study, search.fresh(trial_id))


def climb(
    search: StudySearch, curves: Sequence[tuple[float, ...]], order: Sequence[int]
) -> dict[int, int]:
    """Train one trial after another up the rungs; rungs passed by curve."""
    passed = {}
    for curve in order:
        trial_id, _ = search.ask()
        kept = 0
        for rung, amount in zip(RUNGS, curves[curve], strict=True):
            verdict = search.verdict(trial_id, rung, worse(search, amount))
            check(search, trial_id, verdict)
            if not verdict.keep:
                break
            kept += 1
        passed[curve] = kept
    return passed


def check(search: StudySearch, trial_id: int, verdict: Verdict) -> None:
    """Compare a verdict with a count over all decided values."""
    sign = 1 if search.spec.objective.metric == "loss" else -1
    decided = [
        sign * found[verdict.rung].value
        for trial in search.study.get_trials(deepcopy=False)
        if verdict.rung in (found := verdicts(trial))
    ]
    better = sum(value < sign * verdict.value for value in decided)
    assert verdict.competitors == len(decided)
    assert verdict.rank == better + 1
    assert verdict.keep is (better < max(1, len(decided) // FACTOR))


@pytest.mark.parametrize("seed", range(25))
def test_the_best_configuration_is_never_pruned(search: StudySearch, seed: int) -> None:
    draw = random.Random(seed)
    curves = [
        # Rounded, so that ties occur.
        tuple(round(draw.uniform(0.05, 0.4), 2) for _ in RUNGS)
        for _ in range(10)
    ]
    curves.append((0.04, 0.04, 0.04))
    order = draw.sample(range(len(curves)), len(curves))
    passed = climb(search, curves, order)
    assert passed[len(curves) - 1] == len(RUNGS)


def test_the_best_configuration_survives_every_order() -> None:
    curves = [(0.1, 0.1, 0.1), (0.2, 0.2, 0.2), (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)]
    for order in permutations(range(len(curves))):
        search, _ = created(study_spec())
        passed = climb(search, curves, order)
        assert passed[0] == len(RUNGS)
        # Nothing that came after it is better.
        assert all(passed[other] < len(RUNGS) for other in order[order.index(0) + 1 :])
