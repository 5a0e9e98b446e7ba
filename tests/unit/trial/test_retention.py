"""Which of a trial's evaluated checkpoints a rule keeps."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.spec.study import Checkpoints
from workers.trial.retention import surviving

EVALUATED = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("rule", "best", "kept"),
    [
        ({}, "b", "b"),
        ({}, None, ""),
        ({"keep": "all"}, "b", "abcde"),
        ({"keep_last": 2}, "b", "bde"),
        ({"keep_last": 2}, "e", "de"),
        ({"keep_last": 9}, None, "abcde"),
        ({"total_limit": 1, "keep": "all"}, "b", "b"),
        ({"total_limit": 1, "keep": "all"}, None, "e"),
        ({"total_limit": 3, "keep": "all"}, "b", "bde"),
        ({"total_limit": 3, "keep": "all"}, "d", "cde"),
        ({"total_limit": 2, "keep_last": 3}, "a", "ae"),
        ({"total_limit": 9, "keep_last": 1}, "a", "ae"),
    ],
)
def test_the_best_stays_and_the_youngest_with_it(
    rule: dict[str, Any], best: str | None, kept: str
) -> None:
    assert surviving(EVALUATED, best, Checkpoints.model_validate(rule)) == set(kept)


def test_a_trial_without_evaluations_keeps_nothing() -> None:
    assert surviving([], None, Checkpoints(keep="all", total_limit=2)) == set()
