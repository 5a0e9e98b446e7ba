"""Features that a trial would never come to."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.spec.training.config import TrainingConfig
from workers.trial.epochs import require_all_used
from workers.trial.failures import InvalidTrial


def config(**fields: Any) -> TrainingConfig:
    """A trial of 80 examples in 10 steps."""
    return TrainingConfig.model_validate(
        {
            "optimizer": {"type": "adamw", "learning_rate": 1e-3},
            "effective_batch_size": 8,
            "max_examples": 80,
            **fields,
        }
    )


LATE: dict[str, Any] = {
    "regularisation": {"label_smoothing": 0.1},
    "from_epoch": {"label_smoothing": 0.9},
}
WARM: dict[str, Any] = {"order": {"dynamic_curriculum": {}}}


@pytest.mark.parametrize("examples", [1, 40, 80])
def test_what_begins_with_the_last_step_at_the_latest_is_used(examples: int) -> None:
    require_all_used(config(**LATE), examples)


def test_what_begins_after_the_last_step_is_refused() -> None:
    message = (
        r"training\.from_epoch\.label_smoothing: given 0\.9 where a trial ends after 0\.988 "
        r"epochs; allowed: less than that"
    )
    with pytest.raises(InvalidTrial, match=message):
        require_all_used(config(**LATE), 81)


def test_a_warm_up_longer_than_the_trial_is_refused() -> None:
    require_all_used(config(**WARM), 72)
    with pytest.raises(InvalidTrial, match=r"order\.dynamic_curriculum\.warmup_epochs: given 1 "):
        require_all_used(config(**WARM), 80)
    require_all_used(config(**WARM, ablation=["dynamic_curriculum"]), 80)
