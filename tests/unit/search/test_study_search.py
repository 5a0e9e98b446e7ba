from __future__ import annotations

import math

import optuna
import pytest
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers._tpe.sampler import _split_trials
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from pydantic import ValidationError
from search_lab import CONDITIONAL, complete, created, point, study_spec

from hpo.search.asha import AshaPruner, Verdict, verdicts
from hpo.search.course import Ending, Outcome
from hpo.search.sampler import SeededPerTrial
from hpo.search.study import StudySearch, TrialAlreadyFinished
from hpo.spec.errors import StudyError
from hpo.spec.space import Choices, SearchSpace
from hpo.spec.training.method import FullMethod, LoraMethod

PRUNER = "{type: asha, reduction_factor: 3, min_resource: 100}"
MEDIAN = (PRUNER, "{type: median, min_resource: 100, startup_trials: 1}")


@pytest.fixture
def search() -> StudySearch:
    return created(study_spec())[0]


def beside(search: StudySearch) -> StudySearch:
    """Another process' view of the same study."""
    return StudySearch(search.study._storage, search.spec)


def dashboard(search: StudySearch) -> optuna.Study:
    """The study as a program that knows nothing of ours opens it."""
    return optuna.load_study(study_name=search.spec.name, storage=search.study._storage)


def test_creating_twice_is_creating_once() -> None:
    spec, storage = study_spec(), InMemoryStorage()
    assert StudySearch.create(storage, spec) == StudySearch.create(storage, spec)
    assert not StudySearch.has_trials(storage, spec.name)
    StudySearch(storage, spec).ask()
    assert StudySearch.has_trials(storage, spec.name)
    assert not StudySearch.has_trials(storage, "another")


def test_a_study_that_was_deleted_elsewhere_is_told() -> None:
    with pytest.raises(StudyError, match="hpo study delete tiny"):
        StudySearch(InMemoryStorage(), study_spec())


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [(PRUNER, AshaPruner), (MEDIAN[1], MedianPruner), ("{type: none}", NopPruner)],
)
def test_sampler_and_pruner_come_from_the_spec(pruner: str, kind: type) -> None:
    search, _ = created(study_spec((PRUNER, pruner)))
    assert isinstance(search.study.pruner, kind)
    assert isinstance(search.study.sampler, SeededPerTrial)


def test_an_asked_trial_has_all_its_parameters(search: StudySearch) -> None:
    trial_id, number = search.ask()
    assert number == 0
    assert search.running() == [(trial_id, 0)]
    trial = search.fresh(trial_id)
    assert set(trial.params) == {
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "effective_batch_size",
    }
    config = beside(search).config(trial_id)
    assert config.optimizer.learning_rate == trial.params["optimizer.learning_rate"]
    assert config.effective_batch_size == trial.params["effective_batch_size"]
    assert search.fresh(trial_id).params == trial.params


def test_conditional_parameters_are_drawn_with_their_option() -> None:
    search, _ = created(study_spec(CONDITIONAL))
    methods = set()
    for _ in range(12):
        trial_id, _ = search.ask()
        parameters = search.fresh(trial_id).params
        config = search.config(trial_id)
        methods.add(config.method.type)
        match config.method:
            case LoraMethod():
                assert parameters["method"] == "lora"
                assert parameters["method.lora.rank"] == config.method.rank
                assert parameters["method.lora.dropout"] == config.method.dropout
            case FullMethod():
                assert parameters["method"] == "full"
                assert not any(name.startswith("method.") for name in parameters)
        search.tell(trial_id, complete(parameters["optimizer.learning_rate"]))
    assert methods == {"full", "lora"}


def test_what_the_space_holds() -> None:
    assert created(study_spec())[0].largest_rank() is None
    search, _ = created(
        study_spec(
            CONDITIONAL, ("effective_batch", "max_length: {choices: [64, 32]}\n  effective_batch")
        )
    )
    assert search.largest_rank() == 64
    assert sorted(search.max_lengths()) == [32, 64]


def test_values_that_contradict_each_other_are_told_by_the_config() -> None:
    search, _ = created(study_spec())
    # Pairs of values are tried when a file is read; three may still not go together.
    schedule = {"warmup_steps": Choices((1,), (1,)), "warmup_ratio": 0.1}
    search._space = SearchSpace({**search.spec.training, "schedule": schedule})
    trial_id, _ = search.ask()
    with pytest.raises(ValidationError, match="not both"):
        search.config(trial_id)


def test_a_first_rung_is_reported_at_once(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    assert beside(search).report(trial_id, 100, 0.5, earlier=[])
    assert search.fresh(trial_id).intermediate_values == {100: 0.5}


def test_a_report_waits_for_the_verdicts_of_earlier_rungs(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    evaluator = beside(search)
    assert not evaluator.report(trial_id, 300, 0.4, earlier=[100])
    assert evaluator.report(trial_id, 100, 0.5, earlier=[])
    assert not evaluator.report(trial_id, 300, 0.4, earlier=[100])
    assert search.fresh(trial_id).intermediate_values == {100: 0.5}
    assert search.verdict(trial_id, 100, 0.5).keep
    assert evaluator.report(trial_id, 300, 0.4, earlier=[100])
    assert not evaluator.report(trial_id, 900, 0.3, earlier=[100, 300])


def test_a_pruned_trial_gets_no_report_beyond_its_end(search: StudySearch) -> None:
    search.verdict(search.ask()[0], 100, 0.1)
    trial_id, _ = search.ask()
    assert not search.verdict(trial_id, 100, 0.5).keep
    assert not beside(search).report(trial_id, 300, 0.0, earlier=[100])
    assert search.fresh(trial_id).intermediate_values == {100: 0.5}


def test_a_finished_trial_takes_no_report(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    search.tell(trial_id, complete(0.5))
    assert not search.report(trial_id, 100, 0.5, earlier=[])


def test_a_verdict_reports_a_value_that_was_held_back(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    search.verdict(trial_id, 100, 0.5)
    search.verdict(trial_id, 300, 0.25)
    assert search.fresh(trial_id).intermediate_values == {100: 0.5, 300: 0.25}


def test_a_verdict_is_made_on_what_other_processes_wrote(search: StudySearch) -> None:
    mine, _ = search.ask()
    other = beside(search)
    theirs, _ = other.ask()
    other.verdict(theirs, 100, 0.1)
    other.report(mine, 100, 0.5, earlier=[])
    assert search.verdict(mine, 100, 0.5) == Verdict(100, 0.5, False, 2, 2, 0.1)


def test_a_verdict_is_made_once(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    first = search.verdict(trial_id, 100, 0.5)
    better, _ = search.ask()
    search.verdict(better, 100, 0.1)
    assert beside(search).verdict(trial_id, 100, 0.5) == first
    # A value that arrives twice, changed, is not judged again.
    assert search.verdict(trial_id, 100, 0.9) == first
    assert verdicts(search.fresh(trial_id)) == {100: first}


@pytest.mark.parametrize("reported", [True, False])
def test_a_trial_that_a_person_ended_gets_no_verdict(search: StudySearch, reported: bool) -> None:
    trial_id, number = search.ask()
    if reported:
        search.report(trial_id, 100, 0.5, earlier=[])
    dashboard(search).tell(number, state=TrialState.FAIL)
    with pytest.raises(TrialAlreadyFinished):
        search.verdict(trial_id, 100, 0.5)


def test_the_median_rule_decides_on_the_same_ladder() -> None:
    search, _ = created(study_spec(MEDIAN))
    for value in (0.1, 0.2, 0.3):
        trial_id, _ = search.ask()
        assert search.verdict(trial_id, 100, value).rank is None
        search.tell(trial_id, complete(value))
    below, above = search.ask()[0], search.ask()[0]
    assert search.verdict(above, 100, 0.15) == Verdict(100, 0.15, True)
    assert search.verdict(below, 100, 0.25) == Verdict(100, 0.25, False)


def test_a_complete_trial_has_the_value_of_its_best_checkpoint(search: StudySearch) -> None:
    trial_id, number = search.ask()
    best = point(3, 0.25, accuracy=0.75)
    search.tell(trial_id, Ending(Outcome.COMPLETE, "trained all 9 batches", best))
    trial = search.fresh(trial_id)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.25)
    assert trial.user_attrs == {
        "outcome": "complete",
        "reason": "trained all 9 batches",
        "best_step": 3,
        "best_examples": 24,
        "best_checkpoint": "step-3",
        "loss": 0.25,
        "accuracy": 0.75,
    }
    assert search.best_checkpoint() == "step-3"
    found = beside(search).best_trial()
    assert found is not None
    assert found.number == number


def test_the_value_of_an_accuracy_study_is_the_accuracy() -> None:
    search, _ = created(study_spec(metric="accuracy"))
    for accuracy in (0.25, 0.75, 0.5):
        trial_id, _ = search.ask()
        search.tell(trial_id, Ending(Outcome.COMPLETE, "", point(3, 0.1, accuracy=accuracy)))
    best = search.best_trial()
    assert best is not None
    assert (best.number, best.value) == (1, 0.75)


def test_a_trial_is_told_once(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    search.tell(trial_id, complete(0.5))
    beside(search).tell(trial_id, Ending(Outcome.DIVERGED, "late"))
    trial = search.fresh(trial_id)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.user_attrs["outcome"] == "complete"


def test_how_a_trial_was_told_can_be_read_back(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    assert search.told(trial_id) is None
    search.tell(trial_id, Ending(Outcome.DIVERGED, "the loss is not finite"))
    assert beside(search).told(trial_id) == Ending(Outcome.DIVERGED, "the loss is not finite")


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_a_trial_that_a_person_ended_was_stopped(search: StudySearch, state: TrialState) -> None:
    trial_id, number = search.ask()
    dashboard(search).tell(number, state=state)
    assert search.told(trial_id) == Ending(Outcome.STOPPED, "ended by a person")


def test_a_fact_is_noted_on_the_trial(search: StudySearch) -> None:
    trial_id, _ = search.ask()
    search.note(trial_id, "micro_batch", 4)
    assert search.fresh(trial_id).user_attrs == {"micro_batch": 4}


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.PRUNED, TrialState.PRUNED),
        (Outcome.DIVERGED, TrialState.PRUNED),
        (Outcome.DOES_NOT_FIT, TrialState.PRUNED),
        (Outcome.INVALID, TrialState.FAIL),
        (Outcome.EVALUATION_FAILED, TrialState.FAIL),
        (Outcome.BUG, TrialState.FAIL),
        (Outcome.STOPPED, TrialState.FAIL),
        # Nothing was measured: there is no value to be complete with.
        (Outcome.COMPLETE, TrialState.FAIL),
    ],
)
def test_the_state_of_an_outcome(search: StudySearch, outcome: Outcome, state: TrialState) -> None:
    trial_id, _ = search.ask()
    search.tell(trial_id, Ending(outcome, "why"))
    trial = search.fresh(trial_id)
    assert (trial.state, trial.values) == (state, None)
    assert trial.user_attrs == {"outcome": outcome.value, "reason": "why"}
    assert (search.best_trial(), search.best_checkpoint()) == (None, None)


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.DOES_NOT_FIT])
def test_the_sampler_ranks_a_violated_trial_last(search: StudySearch, outcome: Outcome) -> None:
    """Whatever good values it reported before, and although others are pruned."""
    good, bad = search.ask()[0], search.ask()[0]
    search.verdict(bad, 100, 0.1)
    search.verdict(bad, 300, 0.05)
    search.tell(bad, Ending(outcome, "why", point(1, 0.05, rung=300)))
    pruned = search.ask()[0]
    search.verdict(pruned, 100, 0.8)
    search.tell(pruned, Ending(Outcome.PRUNED, "why", point(1, 0.8, rung=100)))
    search.tell(good, complete(0.9))

    assert search.fresh(bad).constraints == {outcome.value: 1.0}
    assert search.fresh(pruned).constraints == {}
    best_first = [_best_of(search, count) for count in (1, 2, 3)]
    assert best_first == [{0}, {0, 2}, {0, 1, 2}]


def _best_of(search: StudySearch, count: int) -> set[int]:
    """Numbers of the trials that TPE takes for the best ones."""
    below, _ = _split_trials(search.study, search.study.get_trials(), count)
    return {trial.number for trial in below}


def test_the_sampler_avoids_where_trials_diverged() -> None:
    startup = ("startup_trials: 3", "startup_trials: 8")
    search, _ = created(study_spec(startup))
    rates = []
    for _ in range(40):
        trial_id, _ = search.ask()
        rate = search.fresh(trial_id).params["optimizer.learning_rate"]
        rates.append(rate)
        if rate > 1e-3:
            search.verdict(trial_id, 100, 0.01)
            search.tell(trial_id, Ending(Outcome.DIVERGED, "not finite"))
        else:
            search.tell(trial_id, complete(abs(math.log(rate / 1e-4))))
    # Half of the space on a log scale; a uniform draw would go there every second time.
    assert sum(rate > 1e-3 for rate in rates[-20:]) <= 5
