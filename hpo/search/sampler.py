"""Samplers whose draws depend on the trial, not on the process.

A sampler that is seeded once per process repeats its first draws after every
restart, and a second worker repeats those of the first. Here each trial gets
a sampler of its own, seeded by the study's seed and the trial's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.spec import study as spec


class SeededPerTrial(BaseSampler):
    """Delegates to a new sampler per trial, seeded by (seed, number)."""

    def __init__(self, config: spec.Sampler) -> None:
        self._config = config
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            self._current = (trial.number, build(self._config, trial.number))
        return self._current[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start the sampler of this trial."""
        self._current = None
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are sampled together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample those parameters."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample one parameter apart from the others."""
        sampler = self._of(trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the trial's sampler close it."""
        self._of(trial).after_trial(study, trial, state, values)


def build(config: spec.Sampler, number: int) -> BaseSampler:
    """The sampler of one trial."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    match config:
        case spec.TpeSampler():
            return TPESampler(seed=seed, n_startup_trials=config.startup_trials)
        case spec.RandomSampler():
            return RandomSampler(seed=seed)
        case _ as never:
            assert_never(never)


def suggest(trial: optuna.Trial, distribution: BaseDistribution, name: str) -> Any:
    """Draw one parameter by its distribution."""
    match distribution:
        case optuna.distributions.FloatDistribution():
            return trial.suggest_float(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case optuna.distributions.IntDistribution():
            return trial.suggest_int(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case optuna.distributions.CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case _:
            raise TypeError(f"no way to draw from {distribution!r}")
