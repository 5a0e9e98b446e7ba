"""A grader's file that is edited while judges use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from grading_lab import SOURCE, graded, own_task

from hpo.spec.errors import InputError
from workers.evaluation.grading.pool import GradingPool


def test_no_set_is_graded_by_two_graders(tmp_path: Path) -> None:
    task = own_task(tmp_path)
    with GradingPool(1, item_seconds=1.0) as pool:
        assert [grade.score for grade in graded(pool, task, ["any"])] == [1.0]
        own_task(tmp_path, SOURCE.replace("reference in (answer, ", "reference in ("))
        # The judge is ended over the first answer; the next one would read the new file.
        with pytest.raises(InputError, match="changed while it was in use"):
            graded(pool, task, ["sleep 60", "wrong"])
        own_task(tmp_path)
        assert [grade.score for grade in graded(pool, task, ["any"])] == [1.0]
