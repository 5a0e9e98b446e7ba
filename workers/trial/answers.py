"""The graded answers of a trial's best evaluation, saved where people look for them."""

from __future__ import annotations

import logging
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError

from hpo.search.artifacts import AttachedFile, attach
from hpo.search.course import Ending
from hpo.search.graded import bounded_lines, unpack_answers, unpack_set
from storage.answers import AnswerStore
from storage.records import EvaluationRecord
from storage.trials import TrialLease
from workers.session import StudySession
from workers.trial.tracking import Tracker

logger = logging.getLogger(__name__)

MOST_BYTES = 16 << 20
"""Size of the saved lines; beyond it answers are left without their texts."""
ABOUT = ("loss", "accuracy", "accuracy_low", "accuracy_high", "categories")


def save_answers(
    session: StudySession, lease: TrialLease, ending: Ending, tracker: Tracker
) -> None:
    """Save the answers of a trial that is about to be told, on the dashboard and in the tracker.

    A study without a generation set has none. That they cannot be saved is only
    warned of: they are in the database all the same.
    """
    record = _best_record(session, lease, ending)
    if record is None:
        return
    try:
        lines = _lines(session, record)
        if not lines:
            return
        # Optuna takes files of running trials only.
        name = f"graded-answers-batch-{record.step}.jsonl"
        file = AttachedFile(name, b"".join(lines), "application/jsonl")
        attach(session.search, lease.trial_id, session.record, file)
        tracker.graded_answers(lines, _about(session, record))
    except UpdateFinishedTrialError:
        logger.info("trial %d was ended meanwhile: its answers are not attached", lease.number)
    except (OSError, ValueError) as error:
        logger.warning("trial %d: its graded answers are not attached: %s", lease.number, error)


def _best_record(
    session: StudySession, lease: TrialLease, ending: Ending
) -> EvaluationRecord | None:
    if ending.best is None:
        return None
    records = session.queue.for_trial(lease.number)
    return next((record for record in records if record.step == ending.best.step), None)


def _lines(session: StudySession, record: EvaluationRecord) -> list[bytes]:
    store = AnswerStore(session.database, session.record.id)
    packed = store.answers(record.id)
    items = store.get_set(record.test)
    if packed is None or items is None:
        return []
    return bounded_lines(unpack_set(items.items), unpack_answers(packed), MOST_BYTES)


def _about(session: StudySession, record: EvaluationRecord) -> dict[str, Any]:
    """What the artifact is said to hold."""
    result = record.result or {}
    place = {"study": session.spec.name, "trial": record.number, "step": record.step}
    scores = {name: result[name] for name in ABOUT if result.get(name) is not None}
    return place | {"examples": record.examples} | scores
