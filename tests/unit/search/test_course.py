from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from search_lab import created, point, study_spec

from hpo.search.asha import Verdict
from hpo.search.course import Ending, Outcome, Point, best_point, decide
from hpo.spec.study import StudySpec

LAST = 9


class TableJudge:
    """Prunes at the rungs it was told to, and remembers what it was asked."""

    def __init__(self, *prunes: int) -> None:
        self._prunes = prunes
        self.asked: list[tuple[int, float]] = []

    def __call__(self, rung: int, value: float) -> Verdict:
        self.asked.append((rung, value))
        keep = rung not in self._prunes
        return Verdict(rung, value, keep, 1 if keep else 2, 3, value)


class StoredJudge:
    """The study's own verdicts over some trials that were decided before."""

    def __init__(self, seed: int, spec: StudySpec) -> None:
        draw = random.Random(seed)
        self._search, _ = created(spec)
        self._trial, _ = self._search.ask()
        for _ in range(4):
            trial_id, _ = self._search.ask()
            for rung in (100, 300, 900):
                self._search.verdict(trial_id, rung, draw.random())
        self._decided: dict[int, Verdict] = {}

    @property
    def asked(self) -> list[int]:
        """Rungs in the order in which they were decided."""
        return list(self._decided)

    def __call__(self, rung: int, value: float) -> Verdict:
        verdict = self._search.verdict(self._trial, rung, value)
        assert self._decided.setdefault(rung, verdict) == verdict
        return verdict


def end(points: Sequence[Point], judge: TableJudge, spec: StudySpec | None = None) -> Ending | None:
    return decide(points, spec or study_spec(), last_step=LAST, judge=judge)


def test_a_trial_goes_on_while_nothing_speaks_against_it() -> None:
    judge = TableJudge()
    assert end([], judge) is None
    assert end([point(1, 2.0, rung=100), point(2, 3.0)], judge) is None
    assert judge.asked == [(100, 2.0)]


def test_the_last_step_completes_a_trial() -> None:
    points = [point(1, 2.0, rung=100), point(5, 1.0, rung=300), point(LAST, 1.5, rung=900)]
    judge = TableJudge()
    assert end(points, judge) == Ending(Outcome.COMPLETE, "trained all 9 batches", points[1])
    assert judge.asked == [(100, 2.0), (300, 1.0), (900, 1.5)]


def test_the_last_step_is_never_pruned() -> None:
    ending = end([point(LAST, 1.5, rung=900)], judge := TableJudge(900))
    assert ending is not None
    assert ending.outcome is Outcome.COMPLETE
    # Its value competes with later ones all the same.
    assert judge.asked == [(900, 1.5)]


def test_a_pruned_trial_ends_at_its_rung() -> None:
    points = [
        point(1, 2.0, rung=100),
        point(2, 1.25, rung=300),
        point(3, 0.1, rung=900),
        point(LAST, 0.1),
    ]
    judge = TableJudge(300)
    assert end(points, judge) == Ending(
        Outcome.PRUNED, "loss 1.25 at 300 examples: rank 2 of 3", points[1]
    )
    assert judge.asked == [(100, 2.0), (300, 1.25)]


def test_a_verdict_without_a_rank_is_told_in_words() -> None:
    ending = decide(
        [point(1, 2.0, rung=100)],
        study_spec(),
        last_step=LAST,
        judge=lambda rung, value: Verdict(rung, value, False),
    )
    assert ending is not None
    assert ending.reason == "loss 2 at 100 examples: worse than the median"


def test_the_objective_is_what_is_judged() -> None:
    judge = TableJudge()
    end([point(1, 2.0, rung=100, accuracy=0.25)], judge, study_spec(metric="accuracy"))
    assert judge.asked == [(100, 0.25)]


def test_pruning_comes_before_the_plateau() -> None:
    spec = study_spec(early_stopping="{patience: 1}")
    points = [point(1, 1.0, rung=100), point(2, 2.0, rung=300)]
    pruned = end(points, TableJudge(300), spec)
    kept = end(points, TableJudge(), spec)
    assert pruned is not None
    assert pruned.outcome is Outcome.PRUNED
    assert kept == Ending(Outcome.COMPLETE, "loss did not improve in 1 evaluations", points[0])


def test_a_plateau_completes_a_trial_with_its_best() -> None:
    spec = study_spec(early_stopping="{patience: 2, min_delta: 0.125}")
    points = [point(1, 1.0), point(2, 0.9), point(3, 0.95), point(4, 0.1)]
    assert end(points, TableJudge(), spec) == Ending(
        Outcome.COMPLETE, "loss did not improve by 0.125 in 2 evaluations", points[1]
    )


def test_a_plateau_watches_its_own_metric() -> None:
    spec = study_spec(early_stopping="{metric: accuracy, patience: 1}")
    points = [point(1, 1.0, accuracy=0.5), point(2, 0.5, accuracy=0.4)]
    ending = end(points, TableJudge(), spec)
    assert ending is not None
    assert ending.reason.startswith("accuracy did not improve")
    assert ending.best == points[1]


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", float("nan"), float("inf"), None])
def test_a_loss_that_is_not_finite_diverged(loss: float | str | None) -> None:
    points = [point(1, 2.0), point(2, loss, rung=100), point(LAST, 0.1)]
    judge = TableJudge()
    assert end(points, judge) == Ending(
        Outcome.DIVERGED, "the evaluation loss at batch 2 is not finite", points[0]
    )
    assert judge.asked == []


def test_a_diverged_last_step_is_not_complete() -> None:
    ending = end([point(LAST, "nan", accuracy=0.5)], TableJudge(), study_spec(metric="accuracy"))
    assert ending is not None
    assert ending.outcome is Outcome.DIVERGED


def test_a_failed_evaluation_ends_a_trial() -> None:
    points = [point(1, 2.0), point(2, None, error="checkpoint is damaged"), point(3, 1.0)]
    assert end(points, TableJudge()) == Ending(
        Outcome.EVALUATION_FAILED, "evaluation at batch 2: checkpoint is damaged", points[0]
    )


def test_the_best_evaluation_is_the_earliest_of_equals() -> None:
    points = [point(1, 2.0), point(3, 1.0), point(5, 1.0), point(7, 1.5)]
    assert best_point(points, study_spec()) == points[1]
    assert best_point(list(reversed(points)), study_spec()) == points[1]


def test_the_best_evaluation_is_the_objectives() -> None:
    points = [point(1, 1.0, accuracy=0.1), point(2, 3.0, accuracy=0.5), point(3, 2.0)]
    assert best_point(points, study_spec(metric="accuracy")) == points[1]
    assert best_point(points, study_spec()) == points[0]


def test_without_a_finite_value_there_is_no_best() -> None:
    assert best_point([], study_spec()) is None
    assert best_point([point(1, "nan"), point(2, None, error="lost")], study_spec()) is None


@pytest.mark.parametrize("seed", range(40))
def test_decisions_do_not_depend_on_how_results_arrive(seed: int) -> None:
    draw = random.Random(seed)
    rungs = {2: 100, 4: 300, 8: 900}
    values: list[float | str] = [round(draw.uniform(0, 1), 1) for _ in range(LAST)]
    if draw.random() < 0.3:
        values[draw.randrange(LAST)] = "nan"
    points = [point(step, value, rung=rungs.get(step)) for step, value in enumerate(values, 1)]
    spec = study_spec(early_stopping="{patience: 3, min_delta: 0.05}")

    judge = StoredJudge(seed, spec)
    whole = decide(points, spec, last_step=LAST, judge=judge)
    assert whole is not None
    patient = StoredJudge(seed, spec)
    seen = 0
    while (ending := decide(points[:seen], spec, last_step=LAST, judge=patient)) is None:
        seen = min(LAST, seen + draw.randrange(3))
    # What arrives after the end changes nothing.
    assert decide(points, spec, last_step=LAST, judge=patient) == ending == whole
    assert patient.asked == judge.asked == sorted(judge.asked)


def test_patience_counts_the_trials_own_schedule_not_its_rungs() -> None:
    early = "{patience: 2, min_delta: 0.1}"
    spec = study_spec(("{batches: 1}", "{batches: 4}"), early_stopping=early)
    rungs = [point(1, 1.0, rung=100), point(2, 1.0, rung=300), point(3, 1.0, rung=900)]
    assert end([*rungs, point(4, 1.0)], TableJudge(), spec) is None
    ending = decide(
        [*rungs, point(4, 1.0), point(8, 1.0), point(12, 1.0)],
        spec,
        last_step=100,
        judge=TableJudge(),
    )
    assert ending is not None
    assert ending.outcome is Outcome.COMPLETE
    assert "2 evaluations" in ending.reason
