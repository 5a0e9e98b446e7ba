"""A study that was played through by hand, with every kind of end in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from played import PlayedStudy

from hpo.search.course import Ending, Outcome
from storage.database import Database


@pytest.fixture
def played(database: Database, tmp_path: Path) -> PlayedStudy:
    """Trials: 0 complete, 1 pruned, 2 diverged, 3 failed; the budget is six."""
    study = PlayedStudy(database, tmp_path)
    study.score_base(loss=2.0, correct=1)
    study.play(0, [(1, 100, 1.0, 2), (5, None, 0.25, 6), (9, 900, 0.5, 5)], "complete")
    study.play(1, [(1, 100, 1.5, 3)], "pruned")
    study.play(2, [(1, 100, "nan", 0)], "diverged")
    study.play(3, [], "bug")
    return study


BASE = [True, True] + [False] * 6
BEST = [False] + [True] * 5 + [False] * 2


@pytest.fixture
def graded(database: Database, tmp_path: Path) -> PlayedStudy:
    """Base model: items 0 and 1 right; trial 0, best at batch 2: items 1 to 5 right."""
    study = PlayedStudy(database, tmp_path)
    study.score_graded(None, 0, 2.0, BASE)
    lease = study.lease()
    points = [
        study.score_graded(lease, 1, 1.0, BASE),
        study.score_graded(lease, 2, 0.5, BEST),
        study.score_graded(lease, 3, 0.75, BEST),
    ]
    study.search.tell(lease.trial_id, Ending(Outcome.COMPLETE, "trained all", points[1]))
    study.trials.finish(lease, "complete", "trained all")
    return study
