"""What became of the data, on the dashboard."""

from __future__ import annotations

from typing import Any

import pytest
from optuna_dashboard import get_note, save_note
from played import PlayedStudy

from hpo.results.data import show_on_dashboard
from hpo.results.export import results
from storage.studies import Studies

pytestmark = pytest.mark.postgres

REPORT: dict[str, Any] = {
    "hash": "sha256:1",
    "inputs": {"train.jsonl": "sha256:2"},
    "configuration": {"loss_on": "completion"},
    "sets": [
        {
            "name": "train",
            "paths": ["train.jsonl"],
            "rows": 10,
            "wanted": 10,
            "examples": 10,
            "kept": 7,
            "repeated": 7,
            "dropped": {"exact_duplicates": 3},
            "reported": {},
            "shown": {"exact_duplicates": [{"where": "a:4", "detail": "equal to a:1", "text": ""}]},
            "counts": {"file": {"train.jsonl": 7}},
            "quality": [],
            "tokens": None,
        }
    ],
}


def test_the_report_is_the_studys_note(played: PlayedStudy) -> None:
    study = played.search.study
    show_on_dashboard(study, REPORT)
    note = str(get_note(study))
    assert "| train | 10 | 7 | 3 exact duplicates |" in note
    assert "`a:4` equal to a:1" in note
    assert study.user_attrs["data_hash"] == "sha256:1"
    assert study.user_attrs["data_train"] == 7


def test_a_persons_own_note_stays(played: PlayedStudy) -> None:
    save_note(played.search.study, "mine")
    show_on_dashboard(played.search.study, REPORT)
    assert get_note(played.search.study) == "mine"


def test_the_results_say_what_the_data_was(played: PlayedStudy) -> None:
    assert results(played.view)["data"] is None
    Studies(played.database).note_data(played.record.id, REPORT)
    view = played.view
    view.refresh()
    content = results(view)["data"]
    assert content["hash"] == "sha256:1"
    assert content["sets"]["train"]["dropped"] == {"exact_duplicates": 3}
