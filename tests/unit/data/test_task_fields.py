from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prepare_lab import prepared, sums, write

from hpo.spec.errors import InputError
from workers.tiny import make_model


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        row | {"test": f"assert  f() == {row['completion']!r} ", "cases": [[1, "a"]], "level": "b"}
        for row in sums(count, start)
    ]


def content(folder: Path, task: Any, **more: Any) -> dict[str, Any]:
    return {
        "train": {"path": write(folder / "train.jsonl", rows(20))},
        "loss": {"fraction": 0.2},
        "generation": {"task": task, **more},
    }


CODE = {"type": "code", "entry_point": None, "continues": None}


def test_what_grading_needs_comes_as_it_is(tmp_path: Path) -> None:
    own = write(tmp_path / "items.jsonl", rows(3, 100))
    data = prepared(tmp_path, content(tmp_path, CODE, path=own))
    fields = [example.task_fields for example in data.examples("generation")]
    assert [found["test"] for found in fields] == [row["test"] for row in rows(3, 100)]
    assert all(not example.task_fields for example in data.examples("train"))


def test_what_is_no_text_comes_as_json(tmp_path: Path) -> None:
    own = write(tmp_path / "items.jsonl", rows(1, 100))
    task = {"type": "program", "tests": "cases"}
    data = prepared(tmp_path, content(tmp_path, task, path=own))
    assert data.examples("generation")[0].task_fields == {"cases": '[[1, "a"]]'}


def test_a_set_that_is_held_out_has_them_too_and_shares_nothing(tmp_path: Path) -> None:
    data = prepared(tmp_path, content(tmp_path, CODE, fraction=0.2, seed=1, by=["level"]))
    held = data.examples("generation")
    assert all("test" in example.task_fields for example in held)
    assert {example.labels["level"] for example in held} == {"b"}
    assert not {e.prompt for e in held} & {e.prompt for e in data.examples("train")}


def test_grading_fields_are_not_cleaned(tmp_path: Path) -> None:
    spec = content(tmp_path, CODE, fraction=0.2) | {"cleaning": {"evaluation": True}}
    data = prepared(tmp_path, spec)
    assert all(e.task_fields["test"].startswith("assert  f()") for e in data.examples("generation"))


def test_a_breakdown_by_what_no_row_has_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "items.jsonl", sums(3, 100))
    with pytest.raises(InputError, match=r"data\.generation\.by: given 'level', which no row has"):
        prepared(tmp_path, content(tmp_path, "exact", path=own, by=["level"]))


def test_an_empty_evaluation_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("")
    with pytest.raises(InputError, match=r"items\.jsonl"):
        prepared(tmp_path, content(tmp_path, "exact", path=str(tmp_path / "items.jsonl")))


def test_an_item_without_what_its_grader_needs_is_refused(tmp_path: Path) -> None:
    bare = [*rows(2, 100), *sums(1, 200)]
    own = write(tmp_path / "items.jsonl", bare)
    with pytest.raises(InputError, match=r"given 'code', for which \S+items.jsonl:3 has no field"):
        prepared(tmp_path, content(tmp_path, CODE, path=own))


def test_training_rows_need_nothing_for_grading(tmp_path: Path) -> None:
    spec = content(tmp_path, CODE, where={"level": "b"}) | {"loss": {"where": {"level": "b"}}}
    plain = [row | {"level": "a"} for row in sums(5, 300)]
    spec["train"]["path"] = write(tmp_path / "mixed.jsonl", [*rows(4), *plain])
    data = prepared(tmp_path, spec)
    assert (len(data.examples("train")), len(data.examples("generation"))) == (5, 4)


def test_prompts_that_are_answered_are_not_said_to_be_cut(tmp_path: Path) -> None:
    own = write(tmp_path / "items.jsonl", sums(3, 100))
    model = make_model(tmp_path / "model")
    spec = content(tmp_path, "exact", path=own)
    data = prepared(tmp_path, spec, tokenizer=str(model), max_lengths=(4,))
    warned = "\n".join(data.report.warnings())
    assert "data.train: " in warned
    assert "data.generation: " not in warned
