from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from hpo.results.snapshot import StudyView
from hpo.search.register import find, register
from hpo.search.study import StudySearch
from hpo.spec.errors import StudyError
from hpo.spec.load import parse_study
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.studies import Studies

pytestmark = pytest.mark.postgres

STUDY = """\
name: tiny
objective: {metric: loss, direction: minimize}
model: {path: user/model}
data: {train: {path: user/train}, loss: {path: user/valid}}
training:
  optimizer:
    learning_rate: {low: 1e-5, high: 1e-1, log: true}
    weight_decay: {low: 0.0, high: 0.1}
    beta2: {choices: [0.9, 0.99]}
  effective_batch_size: 8
  max_examples: 900
evaluation: {every: {examples: 100}}
budget: {trials: 4}
"""


def study(old: str = "", new: str = "") -> StudySpec:
    assert old in STUDY
    return parse_study(STUDY.replace(old, new) if old else STUDY, "study.yaml", {})


def test_a_study_is_created_once(database: Database, tmp_path: Path) -> None:
    record, created = register(database, study(), tmp_path)
    assert created
    assert (record.name, record.spec["budget"]) == ("tiny", {"trials": 4})
    assert record.checkpoints == f"{tmp_path}/checkpoints/tiny-{record.id}"
    assert EvaluationQueue(database, record.id, seconds=1).base() is not None
    assert register(database, study(), tmp_path) == (record, False)
    assert find(database, "tiny") == record


def test_the_order_of_the_space_outlives_the_database(database: Database, tmp_path: Path) -> None:
    """Random draws depend on it."""
    register(database, study(), tmp_path)
    stored = StudyView(database, find(database, "tiny")).spec
    names = [parameter.name for parameter in SearchSpace.of(stored.training).parameters()]
    assert names == ["optimizer.learning_rate", "optimizer.weight_decay", "optimizer.beta2"]


def test_a_study_is_taken_up_with_a_new_budget(database: Database, tmp_path: Path) -> None:
    register(database, study(), tmp_path)
    record, created = register(database, study("trials: 4", "trials: 40"), tmp_path)
    assert not created
    assert record.spec["budget"] == {"trials": 40}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("high: 1e-1", "high: 1e-2", "exists with another search space or training"),
        ("user/train", "user/other", "exists with other settings"),
    ],
)
def test_a_name_belongs_to_one_study(
    database: Database, tmp_path: Path, old: str, new: str, words: str
) -> None:
    before, _ = register(database, study(), tmp_path)
    with pytest.raises(StudyError, match=words):
        register(database, study(old, new), tmp_path)
    assert find(database, "tiny") == before


def test_a_half_created_study_is_completed(database: Database, tmp_path: Path) -> None:
    StudySearch.create(database.optuna_storage(), study())
    record, created = register(database, study(), tmp_path)
    assert created
    assert Studies(database).list() == [record]


def test_another_programs_study_is_left_alone(database: Database, tmp_path: Path) -> None:
    storage = database.optuna_storage()
    theirs = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(StudyError, match="'tiny' that hpo did not make; give the file another"):
        register(database, study(), tmp_path)
    assert Studies(database).list() == []
    assert len(theirs.trials) == 2


def test_a_missing_study_is_answered_with_those_that_are_there(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match="none yet, create one with: hpo study create FILE"):
        find(database, "tiny")
    register(database, study(), tmp_path)
    with pytest.raises(StudyError, match="'tyni', which is not in this database; allowed: tiny"):
        find(database, "tyni")


REPORT = {"hash": "sha256:1", "sets": []}


def test_what_became_of_the_data_is_stored_once(database: Database, tmp_path: Path) -> None:
    record, _ = register(database, study(), tmp_path, REPORT)
    assert record.data == REPORT
    again, created = register(database, study(), tmp_path, {**REPORT, "more": 1})
    assert (again.data, created) == (REPORT, False)
    with pytest.raises(StudyError, match="was begun with other data"):
        register(database, study(), tmp_path, {**REPORT, "hash": "sha256:2"})


def test_of_two_that_note_the_data_one_is_the_first(database: Database, tmp_path: Path) -> None:
    record, _ = register(database, study(), tmp_path)
    studies = Studies(database)
    assert studies.note_data(record.id, REPORT) == REPORT
    assert studies.note_data(record.id, {"hash": "sha256:2"}) == REPORT


def test_a_study_of_an_earlier_version_is_the_same_study(
    database: Database, tmp_path: Path
) -> None:
    record, _ = register(database, study(), tmp_path)
    old_data = {
        "train": {
            "path": "user/train",
            "split": "train",
            "prompt": "prompt",
            "completion": "completion",
            "samples": None,
        },
        "loss": {
            "path": "user/valid",
            "split": "test",
            "prompt": None,
            "completion": None,
            "samples": None,
        },
        "generation": None,
        "template": "auto",
        "separator": "\n",
    }
    spec, identity = ({**part, "data": old_data} for part in (record.spec, record.identity))
    with database.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE hpo.study SET spec = :spec, identity = :identity"),
            {"spec": json.dumps(spec), "identity": json.dumps(identity)},
        )
    again, created = register(database, study(), tmp_path)
    assert (again.id, created) == (record.id, False)
    with pytest.raises(StudyError, match=r"data\.train\.path: is 'user/train', given 'user/other'"):
        register(database, study("user/train", "user/other"), tmp_path)
