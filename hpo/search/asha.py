"""Asynchronous successive halving that can be asked again.

The stopping variant of ASHA (Li et al., arXiv:1810.05934): when a trial's
value at a rung is known, the trial goes on if it ranks among the best
1 / reduction_factor of the values decided at that rung so far, its own
included, and always if it is the best. Equal values share the better rank: a
tie is no evidence against either.

Competitors are the values with a verdict, not all that were reported: a
result may arrive for a rung that its trial never legitimately reached,
because an earlier verdict had already ended it. With one trial worker the
verdicts therefore do not depend on when results arrive.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

PREFIX = "hpo:verdict:"


@dataclass(frozen=True)
class Verdict:
    """What was decided about one trial at one rung."""

    rung: int
    """Nominal training examples of the rung."""
    value: float
    keep: bool
    rank: int | None = None
    """1 is the best; None for pruners that do not rank."""
    competitors: int | None = None
    """Values decided at this rung, this one included."""
    threshold: float | None = None
    """The worst value that would have gone on."""

    @property
    def key(self) -> str:
        """Name of the trial attribute that holds the verdict."""
        return f"{PREFIX}{self.rung}"

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return asdict(self)


def verdicts(trial: FrozenTrial) -> dict[int, Verdict]:
    """The stored verdicts of a trial by rung."""
    found = (
        Verdict(**value) for key, value in trial.system_attrs.items() if key.startswith(PREFIX)
    )
    return {verdict.rung: verdict for verdict in found}


class AshaPruner(BasePruner):
    """ASHA over (trial, rung, value); see the module's text."""

    def __init__(self, reduction_factor: int) -> None:
        self._reduction_factor = reduction_factor

    def judge(self, study: Study, trial: FrozenTrial, rung: int, value: float) -> Verdict:
        """Rank a value among those decided at its rung before."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        others = [
            decided[rung].value
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and rung in (decided := verdicts(other))
        ]
        ordered = sorted([*others, value], key=lambda v: sign * v)
        survivors = max(1, len(ordered) // self._reduction_factor)
        threshold = ordered[survivors - 1]
        rank = 1 + sum(sign * other < sign * value for other in others)
        return Verdict(rung, value, sign * value <= sign * threshold, rank, len(ordered), threshold)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune at the last reported rung (Optuna's interface)."""
        step = trial.last_step
        if step is None:
            return False
        stored = verdicts(trial).get(step)
        verdict = stored or self.judge(study, trial, step, trial.intermediate_values[step])
        return not verdict.keep
