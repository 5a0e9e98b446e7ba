"""Graded answers: stored with their result or not at all, and never without their study."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from hpo.spec.errors import StudyError
from storage.answers import AnswerStore, StoredSet
from storage.database import Database
from storage.errors import LeaseLost
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord, EvaluationRequest
from storage.schema import evaluation_answers, evaluation_set
from storage.studies import Studies
from storage.trials import TrialLease

pytestmark = pytest.mark.postgres

RESULT = {"loss": 1.5}
# Compressed bytes: every value, and a zero byte first.
ANSWERS = bytes(range(256)) * 40


@pytest.fixture
def answers(database: Database, study: int) -> AnswerStore:
    return AnswerStore(database, study)


@pytest.fixture
def request_of(queue: EvaluationQueue, lease: TrialLease) -> Callable[[int], EvaluationRequest]:
    """A claimed request for a step."""

    def claim(step: int) -> EvaluationRequest:
        queue.put(lease, step=step, examples=8 * step, rung=None, checkpoint=f"c{step}")
        request = queue.claim("evaluator")
        assert request is not None
        return request

    return claim


def reported() -> bool:
    return True


def rows(database: Database, table: sa.Table) -> int:
    with database.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_answers_come_back_as_they_were(
    database: Database,
    queue: EvaluationQueue,
    answers: AnswerStore,
    request_of: Callable[[int], EvaluationRequest],
) -> None:
    with_answers, without, empty = (request_of(step) for step in (1, 2, 3))
    queue.complete(with_answers, RESULT, reported, ANSWERS)
    queue.complete(without, RESULT, reported)
    queue.complete(empty, RESULT, reported, answers=b"")
    assert answers.answers(with_answers.id) == ANSWERS
    assert answers.answers(without.id) is None
    assert answers.answers(empty.id) == b""
    assert answers.answers(999) is None
    assert AnswerStore(database, 8).answers(with_answers.id) is None


def test_records_do_not_carry_answers() -> None:
    assert "answers" not in EvaluationRecord.__dataclass_fields__


def test_answers_are_stored_with_their_result_or_not_at_all(
    database: Database, queue: EvaluationQueue, request_of: Callable[[int], EvaluationRequest]
) -> None:
    def fail() -> bool:
        raise RuntimeError("the study is gone")

    request = request_of(1)
    with pytest.raises(RuntimeError, match="the study is gone"):
        queue.complete(request, RESULT, fail, ANSWERS)
    assert rows(database, evaluation_answers) == 0
    queue.complete(request, RESULT, reported, ANSWERS)
    queue.complete(request, RESULT, fail, b"others")
    assert rows(database, evaluation_answers) == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_late_workers_answers_are_refused(
    database: Database,
    queue: EvaluationQueue,
    request_of: Callable[[int], EvaluationRequest],
    cancelled: bool,
) -> None:
    zombie = request_of(1)
    if cancelled:
        queue.cancel(0, after_step=0)
    else:
        queue.release(zombie)
        assert queue.claim("heir") is not None
    with pytest.raises(LeaseLost):
        queue.complete(zombie, RESULT, reported, ANSWERS)
    assert rows(database, evaluation_answers) == 0


def test_items_are_stored_once_for_each_set(answers: AnswerStore) -> None:
    assert answers.get_set(False) is None
    answers.put_set(False, b"items", "h1")
    answers.put_set(True, b"test items", "h2")
    # Packed anew, the same items may be other bytes.
    answers.put_set(False, b"items, packed anew", "h1")
    assert answers.get_set(False) == StoredSet("h1", b"items")
    assert answers.get_set(True) == StoredSet("h2", b"test items")


@pytest.mark.parametrize(("test", "name"), [(False, "generation set"), (True, "test set")])
def test_other_items_are_refused(answers: AnswerStore, test: bool, name: str) -> None:
    answers.put_set(test, b"items", "h1")
    with pytest.raises(StudyError, match=rf"the items of the {name} here \(h2\).*\(h1\)"):
        answers.put_set(test, b"others", "h2")
    assert answers.get_set(test) == StoredSet("h1", b"items")


def test_of_workers_that_start_together_one_stores_the_items(answers: AnswerStore) -> None:
    together = threading.Barrier(4)

    def put(worker: int) -> str:
        together.wait()
        try:
            answers.put_set(False, b"items", f"h{worker % 2}")
        except StudyError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(put, range(4)))
    assert sorted(map(bool, errors)) == [False, False, True, True]
    stored = answers.get_set(False)
    assert stored is not None
    assert not errors[int(stored.hash[1:])]


def test_a_study_that_is_gone_is_told(database: Database) -> None:
    with pytest.raises(StudyError, match="no study with id 99"):
        AnswerStore(database, 99).put_set(False, b"items", "h")


def test_everything_goes_with_the_study(
    database: Database,
    queue: EvaluationQueue,
    answers: AnswerStore,
    request_of: Callable[[int], EvaluationRequest],
) -> None:
    Studies(database).insert(id=8, name="other", spec={}, identity={}, checkpoints="/nowhere")
    AnswerStore(database, 8).put_set(False, b"kept", "h")
    answers.put_set(False, b"items", "h")
    queue.complete(request_of(1), RESULT, reported, ANSWERS)
    Studies(database).delete(7)
    assert rows(database, evaluation_answers) == 0
    assert rows(database, evaluation_set) == 1
