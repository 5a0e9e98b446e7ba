from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import InMemoryStorage
from search_lab import CONDITIONAL, complete, created, study_spec

from hpo.search.distributions import distribution_of
from hpo.search.sampler import build, suggest
from hpo.search.study import StudySearch
from hpo.spec.space import SearchSpace
from hpo.spec.study import RandomSampler, Sampler, StudySpec, TpeSampler

TRIALS = 8
RANDOM = ("{type: tpe, seed: 3, startup_trials: 3}", "{type: random, seed: 3}")


def drawn(config: Sampler, number: int) -> float:
    """The first value that the sampler of a trial draws."""
    study = optuna.create_study(sampler=build(config, number))
    return study.ask().suggest_float("x", 0.0, 1.0)


@pytest.mark.parametrize("config", [TpeSampler(seed=3), RandomSampler(type="random", seed=3)])
def test_a_sampler_is_seeded_by_seed_and_number(config: Sampler) -> None:
    assert drawn(config, 5) == drawn(config, 5)
    other_seed = config.model_copy(update={"seed": 4})
    values = {drawn(sampler, number) for sampler in (config, other_seed) for number in range(10)}
    assert len(values) == 20


def advance(search: StudySearch, count: int) -> list[dict[str, Any]]:
    """Ask and tell some trials; what was drawn."""
    found = []
    for _ in range(count):
        trial_id, _ = search.ask()
        parameters = search.fresh(trial_id).params
        search.tell(trial_id, complete(abs(parameters["optimizer.learning_rate"] - 1e-3)))
        found.append(parameters)
    return found


SPACES = pytest.mark.parametrize(
    "spec",
    [study_spec(), study_spec(RANDOM), study_spec(CONDITIONAL)],
    ids=["tpe", "random", "conditional"],
)


@SPACES
def test_an_interrupted_study_draws_what_an_uninterrupted_one_does(spec: StudySpec) -> None:
    uninterrupted = advance(created(spec)[0], TRIALS)
    assert len({str(parameters) for parameters in uninterrupted}) == TRIALS
    for count in range(TRIALS):
        search, storage = created(spec)
        before = advance(search, count)
        after = advance(StudySearch(storage, spec), TRIALS - count)
        assert before + after == uninterrupted


@SPACES
def test_a_new_process_per_trial_draws_the_same(spec: StudySpec) -> None:
    _, storage = created(spec)
    drawn_apart = [advance(StudySearch(storage, spec), 1)[0] for _ in range(TRIALS)]
    assert drawn_apart == advance(created(spec)[0], TRIALS)


def test_startup_trials_are_random_and_later_ones_are_not() -> None:
    random = advance(created(study_spec(RANDOM))[0], TRIALS)
    tpe = advance(created(study_spec())[0], TRIALS)
    assert len(random) == len(tpe) == TRIALS
    search, _ = created(study_spec(("startup_trials: 3", "startup_trials: 50")))
    patient = advance(search, TRIALS)
    assert patient[:3] == tpe[:3]
    assert patient[3:] != tpe[3:]


def test_a_trial_that_was_only_created_is_drawn_by_the_next_process() -> None:
    spec = study_spec(CONDITIONAL)
    expected = advance(created(spec)[0], 1)[0]
    search, storage = created(spec)
    trial = search.study.ask()
    other = StudySearch(storage, spec)
    other.config(trial._trial_id)
    assert other.fresh(trial._trial_id).params == expected


def test_distributions_follow_the_space() -> None:
    space = SearchSpace.of(
        {
            "optimizer": {
                "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
                "weight_decay": {"low": 0, "high": 1, "step": 0.25},
            },
            "effective_batch_size": {"low": 8, "high": 64, "log": True},
            "max_examples": {"low": 100, "high": 300, "step": 50},
            "gradient_clipping": {"choices": [None, 1.0]},
            "method": {"choices": [{"type": "full"}, {"type": "lora"}]},
        }
    )
    assert {p.name: distribution_of(p) for p in space.parameters()} == {
        "optimizer.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "optimizer.weight_decay": FloatDistribution(0.0, 1.0, step=0.25),
        "effective_batch_size": IntDistribution(8, 64, log=True),
        "max_examples": IntDistribution(100, 300, step=50),
        "gradient_clipping": CategoricalDistribution((None, 1.0)),
        "method": CategoricalDistribution(("full", "lora")),
    }


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(1e-5, 1e-3, log=True),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(8, 64, log=True),
        IntDistribution(100, 300, step=50),
        CategoricalDistribution((None, "all-linear", 1.0)),
    ],
)
def test_a_value_is_drawn_by_its_distribution(distribution: BaseDistribution) -> None:
    study = optuna.create_study(storage=InMemoryStorage(), sampler=build(TpeSampler(), 0))
    trial = study.ask()
    value = suggest(trial, distribution, "x")
    assert distribution._contains(distribution.to_internal_repr(value))
    assert study.trials[0].distributions == {"x": distribution}


def test_an_unknown_distribution_is_refused() -> None:
    class Other(BaseDistribution):
        def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
            return 0.0

        def single(self) -> bool:
            return True

        def _contains(self, param_value_in_internal_repr: float) -> bool:
            return True

    with pytest.raises(TypeError, match="no way to draw from"):
        suggest(optuna.create_study().ask(), Other(), "x")
