"""What the data that was found leaves of a training section."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hpo.spec.errors import Problem, SpecError
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig

if TYPE_CHECKING:
    from workers.data.preparing.report import DataReport


def require_fit(spec: StudySpec, data: DataReport, shown: str) -> None:
    """Refuse a study of which some trial could do nothing with the data.

    `shown` names the study in the message. Raises SpecError.
    """
    problems = [*dict.fromkeys([*_nothing_left(data), *_never_begun(spec, data)])]
    if problems:
        raise SpecError(shown, problems)


def _nothing_left(data: DataReport) -> Iterator[Problem]:
    for part in data.sets:
        for cut in part.tokens.truncation if part.tokens is not None else ():
            if part.kept and cut.dropped == part.kept:
                yield Problem(
                    "training.max_length",
                    str(cut.max_length),
                    f"more, as nothing that is learned is left of data.{part.name} there",
                )


def _never_begun(spec: StudySpec, data: DataReport) -> Iterator[Problem]:
    """Features that begin when a trial, which ends with its examples or batches, is over."""
    from workers.trial.epochs import idle_features

    for config in SearchSpace.of(spec.training).configs():
        examples = _examples(config, data)
        if examples:
            for found in idle_features(config, examples):
                yield replace(found, path=f"training.{found.path}")


def _examples(config: TrainingConfig, data: DataReport) -> int | None:
    """Training examples of an epoch; None where some are left out, which the trial counts."""
    from workers.data.preparing.recipe import training_name

    train = data.of_set(training_name(config.completion))
    if train.tokens is None or config.truncation == "drop":
        return None
    dropped = {cut.max_length: cut.dropped for cut in train.tokens.truncation}
    return None if dropped.get(config.max_length) else train.repeated
