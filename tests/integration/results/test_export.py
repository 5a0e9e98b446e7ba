from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from played import STUDY, PlayedStudy

import hpo
from hpo.results.export import write_results
from hpo.spec.errors import OutputError
from hpo.spec.load import parse_study
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig

pytestmark = pytest.mark.postgres


@pytest.fixture
def file(played: PlayedStudy, tmp_path: Path) -> Path:
    """The written results."""
    target = tmp_path / "new" / "study_results.yaml"
    write_results(played.view, target)
    return target


@pytest.fixture
def content(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def test_what_was_written_is_what_was_returned(played: PlayedStudy, tmp_path: Path) -> None:
    target = tmp_path / "study_results.yaml"
    returned = write_results(played.view, target)
    assert yaml.safe_load(target.read_text()) == returned
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [target.name]


def test_the_study(content: dict[str, Any], played: PlayedStudy) -> None:
    study = content["study"]
    assert (study["name"], study["state"], study["budget"]) == ("played", "idle", 6)
    assert study["objective"] == {"metric": "loss", "direction": "minimize"}
    assert study["inputs"] == {
        "model": "user/model",
        "train": "user/train",
        "loss": "user/valid",
        "generation": "user/valid",
    }
    assert StudySpec.model_validate(study["specification"]) == played.spec


def test_the_specification_is_a_study_file(content: dict[str, Any], played: PlayedStudy) -> None:
    text = yaml.safe_dump(content["study"]["specification"])
    assert parse_study(text, "again.yaml", {}) == played.spec


def test_the_versions(content: dict[str, Any]) -> None:
    versions = content["versions"]
    assert versions["hpo"] == hpo.__version__
    assert versions["optuna"] == metadata.version("optuna")
    assert {"python", "torch", "transformers", "peft", "sqlalchemy"} <= versions.keys()


def test_the_best_trial(content: dict[str, Any], played: PlayedStudy) -> None:
    best = content["best_trial"]
    parameters = played.search.study.trials[0].params
    assert (best["number"], best["value"], best["step"], best["examples"]) == (0, 0.25, 5, 500)
    assert best["parameters"] == parameters
    assert best["loss"] == {"value": 0.25, "perplexity": 3.5, "tokens": 120}
    assert best["accuracy"] == {
        "value": 0.75,
        "low": 0.125,
        "high": 0.875,
        "confidence": 0.95,
        "correct": 6,
        "total": 8,
    }
    assert best["checkpoint"] == f"{played.record.checkpoints}/trial-00000/step-5"


def test_a_checkpoint_that_is_gone_is_not_named(played: PlayedStudy, tmp_path: Path) -> None:
    (Path(played.record.checkpoints) / "trial-00000" / "step-5").rmdir()
    returned = write_results(played.view, tmp_path / "results.yaml")
    assert returned["best_trial"]["checkpoint"] is None


def test_the_base_model(content: dict[str, Any]) -> None:
    assert content["base_model"]["loss"]["value"] == 2.0
    assert content["base_model"]["accuracy"]["correct"] == 1


def test_the_trials_by_state(content: dict[str, Any]) -> None:
    assert content["trials_by_state"] == {"RUNNING": 0, "COMPLETE": 1, "PRUNED": 2, "FAIL": 1}


def test_the_history_is_a_table(content: dict[str, Any], file: Path, played: PlayedStudy) -> None:
    rows = content["trials"]
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL"]
    assert [row["value"] for row in rows] == [0.25, 1.5, None, None]
    assert [row["loss"] for row in rows] == [0.25, 1.5, "nan", None]
    assert [row["accuracy"] for row in rows] == [0.75, 0.375, 0.0, None]
    assert [row["step"] for row in rows] == [9, 1, 1, 0]
    assert [row["attempts"] for row in rows] == [1, 1, 1, 1]
    assert rows[2]["reason"] == "why it was diverged"
    assert all(row["seconds"] >= 0 for row in rows)
    for row, trial in zip(rows, played.search.study.trials, strict=True):
        assert trial.params.items() <= row.items()
    lines = [line for line in file.read_text().splitlines() if line.startswith("- {number: ")]
    assert [yaml.safe_load(line)[0] for line in lines] == rows


def test_the_training_configuration_feeds_back(
    content: dict[str, Any], played: PlayedStudy
) -> None:
    again = yaml.safe_load(STUDY) | {"training": content["training"]}
    spec = parse_study(yaml.safe_dump(again), "again.yaml", {})
    space = SearchSpace.of(spec.training)
    assert space.parameters() == []
    trial_id = played.search.study.trials[0]._trial_id
    config = TrainingConfig.model_validate(content["training"])
    assert config == played.search.config(trial_id)
    assert config.schedule.warmup_ratio == 0.1


def test_a_study_without_a_complete_trial_is_exported(played: PlayedStudy, tmp_path: Path) -> None:
    optuna.delete_study(study_name="played", storage=played.database.optuna_storage())
    type(played.search).create(played.database.optuna_storage(), played.spec)
    returned = write_results(played.view, tmp_path / "results.yaml")
    assert (returned["best_trial"], returned["training"], returned["trials"]) == (None, None, [])


def test_a_trial_that_a_person_completed_is_exported(played: PlayedStudy, tmp_path: Path) -> None:
    lease = played.lease()
    played.search.study.tell(lease.number, 0.125)
    best = write_results(played.view, tmp_path / "results.yaml")["best_trial"]
    assert (best["number"], best["value"], best["step"]) == (lease.number, 0.125, None)
    assert best["checkpoint"] is None


def test_a_file_in_the_way_is_told(played: PlayedStudy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="a file stands where a folder must be"):
        write_results(played.view, tmp_path / "file" / "results.yaml")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_in_the_way_is_told(played: PlayedStudy, tmp_path: Path) -> None:
    target = tmp_path / "results.yaml"
    target.mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_results(played.view, target)
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


def test_results_replace_older_ones(file: Path, played: PlayedStudy) -> None:
    played.play(4, [(1, 100, 0.125, 8)], "complete")
    write_results(played.view, file)
    assert yaml.safe_load(file.read_text())["best_trial"]["number"] == 4
