from __future__ import annotations

import pytest

from hpo.spec.errors import StudyError
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.studies import Studies, StudyRecord
from storage.trials import TrialLease, TrialLeases
from storage.workers import Workers

pytestmark = pytest.mark.postgres


def test_a_study_is_stored_and_found(database: Database, study: int) -> None:
    studies = Studies(database)
    record = studies.get("study")
    assert record is not None
    assert record == studies.by_id(study)
    assert [record] == studies.list()
    assert (record.checkpoints, record.stop_requested) == ("/nowhere", False)
    assert record.created_at.utcoffset() is not None
    assert studies.get("another") is None
    assert studies.by_id(study + 1) is None


def test_a_name_is_taken_once(database: Database, study: int) -> None:
    with pytest.raises(StudyError, match="'study' exists already"):
        Studies(database).insert(
            id=study + 1, name="study", spec={}, identity={}, checkpoints="/elsewhere"
        )


def test_spec_and_stop_request_change(database: Database, study: int) -> None:
    studies = Studies(database)
    studies.update_spec(study, {"budget": 20})
    studies.request_stop(study)
    assert (_record(studies).spec, _record(studies).stop_requested) == ({"budget": 20}, True)
    studies.resume(study)
    assert not _record(studies).stop_requested


def test_a_study_that_is_not_there_cannot_be_changed(database: Database) -> None:
    with pytest.raises(StudyError, match="no study with id 5"):
        Studies(database).request_stop(5)


def test_deleting_takes_everything_along(
    database: Database, leases: TrialLeases, queue: EvaluationQueue, lease: TrialLease
) -> None:
    queue.put(lease, step=1, examples=8, rung=None, checkpoint="c")
    Workers(database).register("trial", lease.study_id, "cpu")
    Studies(database).delete(lease.study_id)
    assert Studies(database).list() == []
    assert (leases.rows(), leases.attempts(0), queue.for_trial(0)) == ([], [], [])


def _record(studies: Studies) -> StudyRecord:
    record = studies.get("study")
    assert record is not None
    return record
