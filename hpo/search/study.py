"""Ask, report, judge, tell: a study's search in Optuna's storage.

Every process builds its own `StudySearch` over the same storage. Sampler and
pruner always come from the frozen spec: `optuna.load_study` would otherwise
put its own defaults in their place without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from typing import assert_never

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from hpo.search.asha import AshaPruner, Verdict, verdicts
from hpo.search.course import Ending, Outcome
from hpo.search.distributions import distribution_of
from hpo.search.notes import note_base
from hpo.search.sampler import SeededPerTrial, suggest
from hpo.spec import study as spec_types
from hpo.spec.errors import StudyError
from hpo.spec.space import Parameter, Scalar, SearchSpace
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod

FAILED = {Outcome.INVALID, Outcome.EVALUATION_FAILED, Outcome.BUG, Outcome.STOPPED}
VIOLATED = {Outcome.DIVERGED, Outcome.DOES_NOT_FIT}
"""Told as PRUNED with a violated constraint, so that the sampler ranks them
last even after good early values; a FAIL would teach it nothing."""

BASE = "base_"
BASE_SHOWN = ("loss", "perplexity", "accuracy", "accuracy_low", "accuracy_high")
"""What is shown of the base model, each under its name with this prefix."""


class TrialAlreadyFinished(Exception):
    """Somebody else, a person on the dashboard say, ended the trial."""


def build_pruner(config: spec_types.Pruner) -> BasePruner:
    """The pruner that a spec names."""
    match config:
        case spec_types.AshaPruner():
            return AshaPruner(config.reduction_factor)
        case spec_types.MedianPruner():
            return optuna.pruners.MedianPruner(n_startup_trials=config.startup_trials)
        case spec_types.NoPruner():
            return optuna.pruners.NopPruner()
        case _ as never:
            assert_never(never)


class StudySearch:
    """One study's sampler, pruner and trials.

    Raises StudyError when Optuna's tables do not hold the study.
    """

    def __init__(self, storage: BaseStorage, spec: StudySpec) -> None:
        self._space = SearchSpace.of(spec.training)
        self._pruner = build_pruner(spec.pruner)
        self.spec = spec
        try:
            self.study = optuna.load_study(
                study_name=spec.name,
                storage=storage,
                sampler=SeededPerTrial(spec.sampler),
                pruner=self._pruner,
            )
        except KeyError:
            raise StudyError(
                f"the trials of the study {spec.name!r} are gone, deleted on the dashboard "
                f"perhaps; remove the rest of it with: hpo study delete {spec.name}"
            ) from None

    @staticmethod
    def create(storage: BaseStorage, spec: StudySpec) -> int:
        """Create the study in Optuna's tables, if it is missing, and return its id."""
        with _quiet():
            study = optuna.create_study(
                study_name=spec.name,
                storage=storage,
                direction=spec.objective.direction,
                sampler=SeededPerTrial(spec.sampler),
                pruner=build_pruner(spec.pruner),
                load_if_exists=True,
            )
            study.set_metric_names([spec.objective.metric])
            study.set_user_attr("specification", spec.model_dump(mode="json"))
        return study._study_id

    @staticmethod
    def has_trials(storage: BaseStorage, name: str) -> bool:
        """Whether Optuna's tables hold a study of that name with trials in it."""
        summaries = optuna.get_all_study_summaries(storage)
        return any(study.study_name == name and study.n_trials > 0 for study in summaries)

    def max_lengths(self) -> list[int]:
        """The token limits that the space holds."""
        return [int(length) for length in self._space.extremes("max_length")]

    def largest_rank(self) -> int | None:
        """The largest LoRA rank that is served; None where there is none, or all are merged."""
        methods = [config.method for config in self._space.configs()]
        adapters = [method for method in methods if isinstance(method, LoraMethod)]
        # One that has to be merged is enough to have all of them merged.
        if not all(method.served_as_adapter for method in adapters):
            return None
        return max((method.rank for method in adapters), default=None)

    def ask(self) -> tuple[int, int]:
        """Create a trial with all its parameters drawn; (Optuna's id, number)."""
        trial = self.study.ask()
        # Values that contradict each other are an end of the trial: `config` tells of it.
        with suppress(ValidationError):
            self._draw(trial)
        return trial._trial_id, trial.number

    def running(self) -> list[tuple[int, int]]:
        """Trials in state RUNNING as (Optuna's id, number)."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [(trial._trial_id, trial.number) for trial in trials]

    def config(self, trial_id: int) -> TrainingConfig:
        """The training configuration of a trial.

        Parameters that a dead process left undrawn are drawn now. Raises
        pydantic's ValidationError when the drawn values contradict each other.
        """
        return self._draw(optuna.Trial(self.study, trial_id))

    def _draw(self, trial: optuna.Trial) -> TrainingConfig:
        def draw(parameter: Parameter) -> Scalar:
            value: Scalar = suggest(trial, distribution_of(parameter), parameter.name)
            return value

        return self._space.resolve(draw)

    def fresh(self, trial_id: int) -> FrozenTrial:
        """The trial as it stands in the database now."""
        return self.study._storage.get_trial(trial_id)

    def told(self, trial_id: int) -> Ending | None:
        """How a trial ended that was told before, by a dead worker or a person."""
        trial = self.fresh(trial_id)
        if not trial.state.is_finished():
            return None
        outcome = Outcome(trial.user_attrs.get("outcome", Outcome.STOPPED))
        return Ending(outcome, trial.user_attrs.get("reason", "ended by a person"))

    def require_running(self, trial_id: int) -> None:
        """Raise TrialAlreadyFinished when somebody ended the trial."""
        if self.fresh(trial_id).state.is_finished():
            raise TrialAlreadyFinished(f"trial {trial_id} was ended meanwhile")

    def note_base(self, scores: Mapping[str, object]) -> None:
        """Show the base model's scores with the study, on the dashboard say."""
        for name in BASE_SHOWN:
            if scores.get(name) is not None:
                self.study.set_user_attr(f"{BASE}{name}", scores[name])
        note_base(self.study, scores)

    def base_scores(self) -> dict[str, float]:
        """The base model's loss and accuracy, as far as they are known and finite."""
        attrs = self.study.user_attrs
        known = {name: float(attrs.get(f"{BASE}{name}", "nan")) for name in ("loss", "accuracy")}
        return {name: value for name, value in known.items() if isfinite(value)}

    def note(self, trial_id: int, name: str, value: object) -> None:
        """Attach a fact to a running trial, for people."""
        self.study._storage.set_trial_user_attr(trial_id, name, value)

    def report(self, trial_id: int, rung: int, value: float, earlier: Sequence[int]) -> bool:
        """Report a rung's value to the study, unless it is not its turn.

        `earlier` are the lower rungs this trial was evaluated at. Until each
        of them has a verdict that lets the trial go on, the value is held
        back (False): a pruned trial must not own values beyond its end, they
        would reach the sampler. The trial worker reports it when its turn
        comes. A finished trial takes no report either.
        """
        trial = self.fresh(trial_id)
        decided = verdicts(trial)
        if not all(other in decided and decided[other].keep for other in earlier):
            return False
        try:
            self.study._storage.set_trial_intermediate_value(trial_id, rung, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def verdict(self, trial_id: int, rung: int, value: float) -> Verdict:
        """The verdict at a rung, made once and stored with the trial.

        It is made on the freshly read trial, which holds what other processes
        reported. Raises TrialAlreadyFinished when the trial was ended by
        somebody else meanwhile.
        """
        trial = self.fresh(trial_id)
        stored = verdicts(trial).get(rung)
        if stored is not None:
            return stored
        try:
            if trial.intermediate_values.get(rung) != value:
                self.study._storage.set_trial_intermediate_value(trial_id, rung, value)
                trial = self.fresh(trial_id)
            verdict = self._judge(trial, rung, value)
            self.study._storage.set_trial_system_attr(trial_id, verdict.key, verdict.as_dict())
        except UpdateFinishedTrialError as error:
            raise TrialAlreadyFinished(str(error)) from error
        return verdict

    def _judge(self, trial: FrozenTrial, rung: int, value: float) -> Verdict:
        if isinstance(self._pruner, AshaPruner):
            return self._pruner.judge(self.study, trial, rung, value)
        return Verdict(rung, value, not self._pruner.prune(self.study, trial))

    def tell(self, trial_id: int, ending: Ending) -> None:
        """Write how a trial ended; nothing happens if it was told before."""
        trial = self.fresh(trial_id)
        if trial.state.is_finished():
            return
        self._describe(trial_id, ending)
        if ending.outcome in VIOLATED:
            handle = optuna.Trial(self.study, trial_id)
            handle.set_constraint(ending.outcome.value, 1.0)
        state = _state(ending)
        value = ending.best.value(self.spec.objective.metric) if ending.best else None
        values = value if state == TrialState.COMPLETE else None
        self.study.tell(trial.number, values, state=state, skip_if_finished=True)

    def best_trial(self) -> FrozenTrial | None:
        """The best complete trial without a violated constraint, or None."""
        try:
            return self.study.best_trial
        except ValueError:
            return None

    def best_checkpoint(self) -> str | None:
        """Address of the best trial's best checkpoint."""
        trial = self.best_trial()
        return trial.user_attrs.get("best_checkpoint") if trial else None

    def best_checkpoints(self) -> dict[int, str]:
        """Addresses of the best checkpoints of the trials that have ended, by number."""
        named = {
            trial.number: trial.user_attrs.get("best_checkpoint")
            for trial in self.study.get_trials(deepcopy=False)
        }
        return {number: address for number, address in named.items() if address is not None}

    def _describe(self, trial_id: int, ending: Ending) -> None:
        storage = self.study._storage
        facts: dict[str, object] = {"outcome": ending.outcome.value, "reason": ending.reason}
        if ending.best is not None:
            facts |= {
                "best_step": ending.best.step,
                "best_examples": ending.best.examples,
                "best_checkpoint": ending.best.checkpoint,
            }
            facts |= {
                name: value
                for name in ("loss", "accuracy")
                if (value := ending.best.value(name)) is not None
            }
        for name, fact in facts.items():
            storage.set_trial_user_attr(trial_id, name, fact)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own lines out of a command's output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Metric names are marked so; the dashboard shows them.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _state(ending: Ending) -> TrialState:
    if ending.outcome is Outcome.COMPLETE and ending.best is not None:
        return TrialState.COMPLETE
    if ending.outcome in FAILED or ending.outcome is Outcome.COMPLETE:
        return TrialState.FAIL
    return TrialState.PRUNED
