"""Graded answers beside a trial on the dashboard, and the base model in its study."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import get_note, save_note, wsgi
from played import ITEMS, PlayedStudy, graded_scores

from hpo.launch.home import HOME_VARIABLE, home
from hpo.search.artifacts import ArtifactFolder, AttachedFile, attach, home_of, remove_artifacts
from hpo.search.course import Ending, Outcome, Point
from storage.trials import TrialLease
from workers.session import StudySession
from workers.trial.answers import save_answers

pytestmark = pytest.mark.postgres

RIGHT = [True] * 5 + [False] * 3


class Tracker:
    """Collects what it is given."""

    def __init__(self) -> None:
        self.saved: list[tuple[Sequence[bytes], Mapping[str, Any]]] = []

    def train(self, report: object) -> None:
        """Nothing to collect."""

    def evaluation(self, point: Point) -> None:
        """Nothing to collect."""

    def graded_answers(self, lines: Sequence[bytes], about: Mapping[str, Any]) -> None:
        self.saved.append((lines, about))


def session_of(study: PlayedStudy) -> StudySession:
    """As much of a worker's session as saving needs."""
    session = object.__new__(StudySession)
    for name in ("database", "record", "spec", "search", "trials", "queue"):
        object.__setattr__(session, name, getattr(study, name))
    return session


def about_to_end(study: PlayedStudy) -> tuple[TrialLease, Ending]:
    """A trial whose best evaluation is the first of two."""
    lease = study.lease()
    points = [study.score_graded(lease, 1, 0.5, RIGHT), study.score_graded(lease, 2, 0.75, RIGHT)]
    return lease, Ending(Outcome.COMPLETE, "trained all", points[0])


class Failing(io.BytesIO):
    """A file that breaks off, as on a disk that is full."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError("No space left on device")
        return super().read(4)


def test_a_file_that_cannot_be_finished_is_not_left(tmp_path: Path) -> None:
    """Nothing refers to it, so nothing would ever remove it."""
    store = ArtifactFolder(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        store.write("broken", Failing(b"answers"))
    assert list(store.folder.iterdir()) == []


def asked(study: PlayedStudy, path: str) -> tuple[str, bytes]:
    """Status and body of the dashboard's answer."""
    application = wsgi(
        study.database.optuna_storage(), artifact_store=ArtifactFolder(home_of(study.record))
    )
    environment: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environment)
    status: list[str] = []
    body = application(environment, lambda line, headers, *rest: status.append(line))
    return status[0], b"".join(body)


def test_a_trials_answers_can_be_downloaded_from_the_dashboard(graded: PlayedStudy) -> None:
    session, tracker = session_of(graded), Tracker()
    lease, ending = about_to_end(graded)
    save_answers(session, lease, ending, tracker)
    # An attempt that died before it was told does it again.
    save_answers(session, lease, ending, tracker)
    [attached] = [
        json.loads(value)
        for name, value in graded.search.fresh(lease.trial_id).system_attrs.items()
        if name.startswith("artifacts:")
    ]
    assert attached["filename"] == "graded-answers-batch-1.jsonl"
    path = f"/artifacts/{graded.record.id}/{lease.trial_id}/{attached['artifact_id']}"
    status, body = asked(graded, path)
    assert status == "200 OK"
    rows = [json.loads(line) for line in body.splitlines()]
    assert [row["category"] == "correct" for row in rows] == RIGHT
    assert rows[0]["prompt"] == "What is 0 + 0?\n"
    lines, about = tracker.saved[0]
    assert b"".join(lines) == body
    assert (about["trial"], about["step"], about["accuracy"]) == (lease.number, 1, 5 / ITEMS)


def test_the_folder_is_that_of_the_dashboard(
    graded: PlayedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert home_of(graded.record) == home()


def test_a_deleted_study_leaves_no_files(graded: PlayedStudy) -> None:
    lease, ending = about_to_end(graded)
    save_answers(session_of(graded), lease, ending, Tracker())
    study, storage = graded.search.study, graded.database.optuna_storage()
    # As the dashboard leaves what a person deleted there.
    storage.set_study_system_attr(graded.record.id, "artifacts:gone", "null")
    folder = home_of(graded.record) / "artifacts"
    assert len(list(folder.iterdir())) == 1
    remove_artifacts(storage, study.study_name, home_of(graded.record))
    assert list(folder.iterdir()) == []
    remove_artifacts(storage, study.study_name, home_of(graded.record))
    with pytest.raises(KeyError):
        remove_artifacts(storage, "another", home_of(graded.record))


def test_nothing_is_saved_where_nothing_was_graded(played: PlayedStudy) -> None:
    lease, tracker = played.lease(), Tracker()
    point = played.score(lease, 1, 100, 0.75, 4)
    save_answers(session_of(played), lease, Ending(Outcome.COMPLETE, "", point), tracker)
    save_answers(session_of(played), lease, Ending(Outcome.DIVERGED, ""), tracker)
    assert tracker.saved == []
    assert not (home_of(played.record) / "artifacts").exists()


def test_what_cannot_be_saved_costs_a_warning(
    graded: PlayedStudy, caplog: pytest.LogCaptureFixture
) -> None:
    lease, ending = about_to_end(graded)
    (home_of(graded.record) / "artifacts").write_text("in the way")
    save_answers(session_of(graded), lease, ending, Tracker())
    assert f"trial {lease.number}: its graded answers are not attached" in caplog.text


def test_a_trial_that_a_person_ended_takes_no_file(graded: PlayedStudy) -> None:
    lease, ending = about_to_end(graded)
    graded.search.study.tell(lease.number, 1.0)
    save_answers(session_of(graded), lease, ending, tracker := Tracker())
    assert tracker.saved == []
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        attach(
            graded.search, lease.trial_id, graded.record, AttachedFile("a.jsonl", b"", "text/plain")
        )


def test_the_base_model_is_shown_with_its_study(graded: PlayedStudy) -> None:
    study = graded.search.study
    save_note(study, "## Data\n\n| set |")
    scores = graded_scores(2.0, RIGHT)
    graded.search.note_base(scores)
    graded.search.note_base(scores)
    assert study.user_attrs["base_loss"] == 2.0
    assert study.user_attrs["base_accuracy_low"] == 0.125
    assert graded.search.base_scores() == {"loss": 2.0, "accuracy": 5 / ITEMS}
    assert get_note(study).splitlines() == [
        "## Data",
        "",
        "| set |",
        "",
        "## Base model",
        "",
        "| loss | perplexity | accuracy | 95 % interval |",
        "| --- | --- | --- | --- |",
        "| 2 | 3.5 | 0.625 | 0.125 to 0.875 |",
    ]


def test_a_persons_note_is_left_alone(graded: PlayedStudy) -> None:
    save_note(graded.search.study, "mine")
    graded.search.note_base({"loss": "nan", "perplexity": "nan", "accuracy": None})
    assert get_note(graded.search.study) == "mine"
    assert graded.search.base_scores() == {}
