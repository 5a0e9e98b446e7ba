from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepare_lab import dropped, prepared, prompts, sums, write

from hpo.spec.data import DataSpec
from hpo.spec.errors import InputError
from workers.data.preparing.cache import DataCache
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.report import DataReport


def test_files_of_their_own_are_sets_of_their_own(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", sums(10))
    loss = write(tmp_path / "loss.jsonl", sums(5, start=100))
    data = prepared(tmp_path, {"train": {"path": train}, "loss": {"path": loss}})
    assert prompts(data, "train") == [row["prompt"] for row in sums(10)]
    assert prompts(data, "loss") == [row["prompt"] for row in sums(5, start=100)]
    assert data.names() == ["train", "loss"]


def test_a_fraction_is_held_out_and_not_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", sums(200))
    content = {
        "train": {"path": train},
        "loss": {"fraction": 0.05, "seed": 42},
        "generation": {"fraction": 0.05, "seed": 42},
    }
    data = prepared(tmp_path, content)
    assert len(data.examples("loss")) == 10
    assert prompts(data, "loss") == prompts(data, "generation")
    assert not set(prompts(data, "loss")) & set(prompts(data, "train"))
    assert dropped(data) == {"held out for loss": 10}


def test_a_field_of_the_data_splits_it(tmp_path: Path) -> None:
    rows = [{**row, "split": "valid" if i % 5 == 0 else "train"} for i, row in enumerate(sums(20))]
    content = {
        "train": {"path": write(tmp_path / "all.jsonl", rows), "where": {"split": "train"}},
        "loss": {"where": {"split": "valid"}},
    }
    data = prepared(tmp_path, content)
    assert prompts(data, "loss") == [row["prompt"] for row in rows[::5]]
    assert len(data.examples("train")) == 16
    report = data.report.of_set("train")
    assert (report.rows, report.wanted, report.examples) == (20, 16, 16)


def test_what_is_in_two_files_is_in_one_set_only(tmp_path: Path) -> None:
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(10))},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(4, start=8))},
        "generation": {"path": write(tmp_path / "generation.jsonl", sums(4, start=9))},
        "test": {"path": write(tmp_path / "test.jsonl", sums(4, start=11))},
    }
    data = prepared(tmp_path, content)
    sets = {name: set(prompts(data, name)) for name in data.names()}
    assert not sets["train"] & (sets["loss"] | sets["generation"] | sets["test"])
    assert not sets["test"] & (sets["loss"] | sets["generation"])
    assert len(sets["test"]) == 4
    assert dropped(data) == {"in the loss set": 2}
    assert dropped(data, "loss") == {"in the test set": 1}


def test_the_same_prompt_with_another_answer_is_the_same_example(tmp_path: Path) -> None:
    other = [{**row, "completion": "Another answer."} for row in sums(5)]
    content: dict[str, Any] = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(10))},
        "loss": {"path": write(tmp_path / "loss.jsonl", other)},
    }
    assert len(prepared(tmp_path, content).examples("train")) == 5
    assert len(prepared(tmp_path, {**content, "same": "example"}).examples("train")) == 10


def test_the_test_set_is_held_out_first(tmp_path: Path) -> None:
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(100))},
        "loss": {"fraction": 0.1},
        "test": {"fraction": 0.2},
    }
    data = prepared(tmp_path, content)
    assert {name: len(data.examples(name)) for name in data.names()} == {
        "train": 72,
        "loss": 8,
        "test": 20,
    }
    every = [prompt for name in data.names() for prompt in prompts(data, name)]
    assert sorted(every) == sorted(row["prompt"] for row in sums(100))


def test_what_samples_leaves_of_a_held_out_part_is_not_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", sums(100))
    data = prepared(tmp_path, {"train": {"path": train}, "loss": {"fraction": 0.2, "samples": 5}})
    assert (len(data.examples("loss")), len(data.examples("train"))) == (5, 80)
    assert dropped(data, "loss") == {"beyond samples": 15}


def test_samples_of_a_file_are_its_first_wanted_rows(tmp_path: Path) -> None:
    rows = [{**row, "kind": "ab"[i % 2]} for i, row in enumerate(sums(30))]
    content = {
        "train": {"path": write(tmp_path / "t.jsonl", rows), "where": {"kind": "b"}, "samples": 4},
        "loss": {"path": write(tmp_path / "l.jsonl", sums(3, start=50)), "samples": 2},
    }
    data = prepared(tmp_path, content)
    assert prompts(data, "train") == [row["prompt"] for row in rows[1:9:2]]
    assert len(data.examples("loss")) == 2


def test_cleaning_counts_what_it_drops_and_shows_it(tmp_path: Path) -> None:
    rows = [
        *sums(20),
        {"prompt": "WHAT is 3  and one?", "completion": "It is 4."},
        {"prompt": "a", "completion": "too short a prompt"},
        {"prompt": "What is missing here?", "completion": "Something ... is"},
        {"prompt": "What is brok\ufffdn here?", "completion": "The encoding."},
    ]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"fraction": 0.1},
        "cleaning": {"min_characters": 5, "incomplete": True},
    }
    data = prepared(tmp_path, content)
    assert dropped(data) == {
        "min_characters": 1,
        "incomplete": 1,
        "broken_encoding": 1,
        "exact_duplicates": 1,
        "held out for loss": 2,
    }
    shown = data.report.of_set("train").shown["exact_duplicates"]
    assert shown == [
        {
            "where": f"{tmp_path / 'train.jsonl'}:21",
            "detail": f"equal to {tmp_path / 'train.jsonl'}:4",
            "text": "WHAT is 3 and one? It is 4.",
        }
    ]


def test_near_duplicates_are_dropped_before_sets_are_made(tmp_path: Path) -> None:
    story = "The quick brown fox jumps over the lazy dog while {} birds sing in the old oak tree"
    rows = [
        {"prompt": story.format(word) + " near the river bank this very morning", "completion": "x"}
        for word in ("many", "many many")
    ]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", [*sums(20), *rows])},
        "loss": {"fraction": 0.2},
        "cleaning": {"near_duplicates": {"threshold": 0.5, "words": 3}},
    }
    data = prepared(tmp_path, content)
    assert dropped(data)["near_duplicates"] == 1


def test_evaluation_files_are_cleaned_only_when_asked(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(10))},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(3, start=50) * 2)},
        "cleaning": {},
    }
    assert len(prepared(tmp_path, content).examples("loss")) == 6
    content["cleaning"] = {"evaluation": True}
    data = prepared(tmp_path, content)
    assert len(data.examples("loss")) == 3
    assert dropped(data, "loss") == {"exact_duplicates": 3}


BAD = [
    ("{", "malformed JSON"),
    ("[]", "an array"),
    ('{"prompt": "a"}', "no field 'completion'"),
    ('{"prompt": 3, "completion": "b"}', "a number in 'prompt'"),
    ('{"prompt": "a", "completion": " "}', "an empty 'completion'"),
]


@pytest.mark.parametrize(("line", "told"), BAD)
def test_a_bad_row_stops_with_its_place(tmp_path: Path, line: str, told: str) -> None:
    content = _with_bad_lines(tmp_path, [line])
    with pytest.raises(InputError, match="on_error: drop") as error:
        prepared(tmp_path, content)
    assert f"{tmp_path / 'train.jsonl'}:4: given {told}" in str(error.value)


def test_bad_rows_are_dropped_and_counted_when_asked(tmp_path: Path) -> None:
    content = _with_bad_lines(tmp_path, [line for line, _ in BAD]) | {"on_error": "drop"}
    data = prepared(tmp_path, content)
    assert len(data.examples("train")) == 3
    assert dropped(data) == {
        "malformed": 2,
        "missing field": 1,
        "wrong type": 1,
        "empty completion": 1,
    }


def _with_bad_lines(tmp_path: Path, lines: list[str]) -> dict[str, Any]:
    file = tmp_path / "train.jsonl"
    write(file, sums(3))
    with file.open("a") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    loss = write(tmp_path / "loss.jsonl", sums(3, start=50))
    return {"train": {"path": str(file)}, "loss": {"path": loss}}


def test_an_empty_set_says_what_it_was_lost_to(tmp_path: Path) -> None:
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(5))},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(5))},
    }
    with pytest.raises(InputError, match=r"data\.train: given 5 examples.*5 in the loss set"):
        prepared(tmp_path, content)
    content["train"]["where"] = {"completion": "nothing like it"}  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"data\.train: given no rows"):
        prepared(tmp_path, content)


def test_several_sources_have_weights_and_fields_of_their_own(tmp_path: Path) -> None:
    asked = [{"question": row["prompt"], "completion": row["completion"]} for row in sums(4, 20)]
    content = {
        "train": {
            "sources": [
                {"path": write(tmp_path / "a.jsonl", sums(10))},
                {"path": write(tmp_path / "b.jsonl", asked), "prompt": "question", "weight": 3},
            ]
        },
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(3, start=50))},
    }
    report = prepared(tmp_path, content).report.of_set("train")
    assert (report.kept, report.repeated) == (14, 22)
    assert report.counts["file"] == {
        str(tmp_path / "a.jsonl"): 10,
        str(tmp_path / "b.jsonl"): 4,
    }


def test_trials_may_train_on_different_fields_of_the_same_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": row["prompt"], "solution": row["completion"], "output": f"Long. {number}"}
        for number, row in enumerate(sums(50))
    ]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"fraction": 0.2, "completion": "solution"},
    }
    data = prepared(tmp_path, content, completions=("solution", "output"))
    assert data.names() == ["train on solution", "train on output", "loss"]
    assert prompts(data, "train on solution") == prompts(data, "train on output")
    assert not set(prompts(data, "train on output")) & set(prompts(data, "loss"))
    assert data.examples("train on output")[0].completion.startswith("Long.")
    assert data.examples("loss")[0].completion.startswith("It is")


def test_examples_of_every_prompt_are_not_trained_on(tmp_path: Path) -> None:
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(20))},
        "loss": {"fraction": 0.1},
        "few_shot": {"count": 2, "origin": "train", "seed": 3},
    }
    data = prepared(tmp_path, content)
    assert len(data.shots) == 2
    shown = {shot.prompt for shot in data.shots}
    assert not shown & {*prompts(data, "train"), *prompts(data, "loss")}
    assert dropped(data) == {"held out for loss": 2, "few-shot examples": 2}


@pytest.mark.parametrize("action", ["drop", "report"])
def test_training_examples_that_hold_an_evaluation_item(tmp_path: Path, action: str) -> None:
    item = "A train leaves the city at noon and travels north at sixty miles each hour until dusk"
    copied = {"prompt": f"Read this first. {item}! Then answer.", "completion": "Three hundred."}
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", [*sums(10), copied])},
        "loss": {"path": write(tmp_path / "l.jsonl", [{"prompt": item, "completion": "Hm."}])},
        "decontamination": {"words": 8, "action": action},
    }
    data = prepared(tmp_path, content)
    report = data.report.of_set("train")
    if action == "drop":
        assert report.dropped == {"contaminated": 1}
        assert "100% of" in report.shown["contaminated"][0]["detail"]
    else:
        assert (report.dropped, report.reported["contaminated"]) == ({}, 1)


def test_scores_and_labels_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        {**row, "quality": number / 10, "level": "A1" if number < 4 else "B2"}
        for number, row in enumerate(sums(10))
    ]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"path": write(tmp_path / "loss.jsonl", [{**rows[0], "prompt": "Other?"}])},
        "quality": {"type": "field", "field": "quality"},
        "labels": ["level"],
    }
    data = prepared(tmp_path, content)
    report = data.report.of_set("train")
    assert report.quality == pytest.approx((0.0, 0.45, 0.9))
    assert report.counts["level"] == {"B2": 6, "A1": 4}
    assert data.examples("train")[3].quality == 0.3


def test_a_second_start_finds_everything_and_a_change_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    content = {"train": {"path": write(file, sums(20))}, "loss": {"fraction": 0.1}}
    first = prepared(tmp_path, content)
    assert prepared(tmp_path, content).folder == first.folder
    write(file, sums(21))
    other = prepared(tmp_path, content)
    assert other.folder != first.folder
    assert other.report.hash != first.report.hash


def test_the_report_survives_its_file(tmp_path: Path, model_folder: Path) -> None:
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", sums(20))},
        "loss": {"fraction": 0.1},
        "cleaning": {},
    }
    data = prepared(tmp_path, content, tokenizer=str(model_folder), max_lengths=(16, 64))
    assert DataReport.of(data.report.as_dict()) == data.report


@contextmanager
def one_processor() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(before)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    rows = [*sums(17_000), *sums(500), {"prompt": "What is 5 and ONE?", "completion": "It is 6."}]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"fraction": 0.05},
        "cleaning": {"near_duplicates": {"permutations": 16}},
    }
    with one_processor():
        alone = prepared(tmp_path / "alone", content).report
    assert prepared(tmp_path / "many", content).report == alone
    assert alone.of_set("train").dropped["exact_duplicates"] == 501


def test_tokens_are_counted_and_their_limits_hold(tmp_path: Path, model_folder: Path) -> None:
    long = {"prompt": "What is this? " * 20, "completion": "A long prompt."}
    content: dict[str, Any] = {
        "train": {"path": write(tmp_path / "train.jsonl", [*sums(30), long])},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(3, start=50))},
        "cleaning": {"max_tokens": 200},
    }
    data = prepared(tmp_path, content, tokenizer=str(model_folder), max_lengths=(24, 40))
    assert dropped(data) == {"max_tokens": 1}
    tokens = data.report.of_set("train").tokens
    assert tokens is not None
    encoded = data.encoded("train")
    assert tokens.total == sum(len(example.input_ids) for example in encoded)
    assert tokens.learned == sum(example.counted for example in encoded)
    assert sum(count for _, count in tokens.histogram) == 30
    assert [cut.max_length for cut in tokens.truncation] == [24, 40]
    assert tokens.truncation[0].truncated > 0
    assert any("cut at 24 tokens" in line for line in data.report.warnings())

    content |= {"cleaning": None, "max_prompt_tokens": 100}
    with pytest.raises(InputError, match=r"train.jsonl:31: given a prompt of \d+ tokens"):
        prepared(tmp_path, content, tokenizer=str(model_folder))


def test_weights_repeat_tokens_without_copying(tmp_path: Path, model_folder: Path) -> None:
    content = {
        "train": {
            "sources": [
                {"path": write(tmp_path / "a.jsonl", sums(6))},
                {"path": write(tmp_path / "b.jsonl", sums(4, start=20)), "weight": 0.5},
            ]
        },
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(3, start=50))},
    }
    data = prepared(tmp_path, content, tokenizer=str(model_folder))
    assert (len(data.encoded("train")), len(data.training())) == (10, 8)
    assert np.array_equal(data.training()[0].input_ids, data.encoded("train")[0].input_ids)


def test_field_names_are_inherited_however_the_section_was_written(tmp_path: Path) -> None:
    talks = [
        {"talk": ["Hello?", "Yes.", f"What is {n}?"], "replies": [f"It is {n}.", f"{n}!"]}
        for n in range(20)
    ]
    content = {
        "train": {
            "format": "dialogue",
            "prompt": "talk",
            "completion": "replies",
            "sources": [
                {"path": write(tmp_path / "a.jsonl", talks[:10])},
                {"path": write(tmp_path / "b.jsonl", talks[10:]), "weight": 2},
            ],
        },
        "loss": {"fraction": 0.2},
        "generation": {"path": write(tmp_path / "c.jsonl", talks[:1])},
    }
    # As a study is stored: every field is written, with its default where it was open.
    stored = DataSpec.model_validate(content).model_dump(mode="json")
    data = prepared(tmp_path, stored)
    assert data.report.of_set("train").examples == 40
    assert len(data.examples("loss")) == 8
    assert [turn.role for turn in data.examples("loss")[0].turns] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert data.report.hash == prepared(tmp_path, content).report.hash


def test_a_common_system_prompt_makes_no_near_duplicates(tmp_path: Path) -> None:
    system = "You are a friendly and patient teacher who explains every single step " * 5
    rows = [{**row, "system": system} for row in sums(10)]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows), "system": "system"},
        "loss": {"fraction": 0.1},
        "cleaning": {"near_duplicates": {"words": 2}},
    }
    assert "near_duplicates" not in dropped(prepared(tmp_path, content))


def test_examples_that_differ_in_a_field_of_the_template_are_not_equal(tmp_path: Path) -> None:
    rows = [{**sums(1)[0], "level": level} for level in ("A1", "B2", "A1")]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", [*rows, *sums_of_level(20)])},
        "loss": {"fraction": 0.1},
        "template": "{level}: {prompt}\n{completion}",
        "cleaning": {},
    }
    assert dropped(prepared(tmp_path, content))["exact_duplicates"] == 1


def sums_of_level(count: int) -> list[dict[str, str]]:
    return [{**row, "level": "C1"} for row in sums(count, start=100)]


def test_what_does_not_go_with_the_template_is_a_row_that_cannot_be_used(
    tmp_path: Path, model_folder: Path
) -> None:
    rows = [{**row, "completion": f"{row['completion']}\n#### 1"} for row in sums(9)]
    content: dict[str, Any] = {
        "train": {
            "sources": [
                {"path": write(tmp_path / "a.jsonl", [*rows, *sums(2, start=30)]), "weight": 2}
            ]
        },
        "loss": {"path": write(tmp_path / "loss.jsonl", [{**rows[0], "prompt": "Other?"}])},
        "template": "answer",
    }
    with pytest.raises(InputError, match=r"a.jsonl:10: given a completion without.*on_error: drop"):
        prepared(tmp_path, content, tokenizer=str(model_folder))
    data = prepared(tmp_path, content | {"on_error": "drop"}, tokenizer=str(model_folder))
    assert dropped(data) == {"missing field": 2}
    assert (len(data.encoded("train")), len(data.training())) == (9, 18)
    assert len(data.examples("train")) == 9


def test_evaluation_files_need_no_score(tmp_path: Path) -> None:
    rows = [{**row, "quality": 0.5} for row in sums(5)]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(3, start=50))},
        "quality": {"type": "field", "field": "quality"},
    }
    assert prepared(tmp_path, content).examples("loss")[0].quality is None


def test_a_code_block_hides_no_evaluation_item(tmp_path: Path) -> None:
    fenced = "Mend this:\n```{}\nx = 1\n```"
    rows = [{"prompt": fenced.format("py"), "completion": "x = 2"}]
    copies = [{"prompt": fenced.format("python"), "completion": "x = 2"}, *sums(5)]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", copies)},
        "loss": {"path": write(tmp_path / "loss.jsonl", rows)},
        "cleaning": {"code_blocks": True},
    }
    assert dropped(prepared(tmp_path, content)) == {"in the loss set": 1}


def test_no_prompt_shows_an_evaluation_item(tmp_path: Path) -> None:
    item = "A train leaves the city at noon and travels north at sixty miles each hour until dusk"
    copies = [{"prompt": f"Number {n}. {item}?", "completion": f"It is {n}."} for n in range(30)]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", [*copies, *sums(2)])},
        "loss": {"path": write(tmp_path / "loss.jsonl", [{"prompt": item, "completion": "Hm."}])},
        "decontamination": {"words": 8},
        "few_shot": {"count": 1, "origin": "train"},
    }
    (shot,) = prepared(tmp_path, content).shots
    assert item not in shot.prompt


def test_a_part_keeps_the_filter_of_the_training_set_and_what_it_leaves(tmp_path: Path) -> None:
    rows = [
        {**row, "lang": "it" if n % 2 else "en", "split": "valid" if n < 20 else "train"}
        for n, row in enumerate(sums(40))
    ]
    content = {
        "train": {"path": write(tmp_path / "all.jsonl", rows), "where": {"lang": "it"}},
        "loss": {"where": {"split": "valid"}, "samples": 3},
    }
    data = prepared(tmp_path, content)
    assert prompts(data, "loss") == [rows[n]["prompt"] for n in (1, 3, 5)]
    assert dropped(data, "loss") == {"beyond samples": 7}
    assert prompts(data, "train") == [rows[n]["prompt"] for n in range(21, 40, 2)]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"labels": ["levl"]}, "data.labels: given 'levl', which no row has"),
        ({"loss": {"fraction": 0.01}}, r"data.loss.fraction: given 0.01 of 5 examples"),
        ({"train": {"sources": [{"path": "FILE", "weight": 0.01}]}}, r"data.train: given weights"),
    ],
)
def test_what_would_be_empty_or_ignored_is_told(
    tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    file = write(tmp_path / "train.jsonl", sums(5))
    content: dict[str, Any] = {
        "train": {"path": file},
        "loss": {"path": write(tmp_path / "loss.jsonl", sums(2, start=50))},
        **more,
    }
    for source in content["train"].get("sources", ()):
        source["path"] = file
    with pytest.raises(InputError, match=told):
        prepared(tmp_path, content)


def test_the_hash_knows_the_tokens(tmp_path: Path, model_folder: Path) -> None:
    content = {"train": {"path": write(tmp_path / "t.jsonl", sums(9))}, "loss": {"fraction": 0.3}}
    hashes = {
        prepared(tmp_path, content | more, tokenizer=str(model_folder)).report.hash
        for more in ({}, {"template": "chatml"}, {"loss_on": "all"})
    }
    assert len(hashes) == 3


def test_a_row_that_cannot_be_cleaned_is_counted_once(tmp_path: Path, model_folder: Path) -> None:
    rows = [*sums(20), {"prompt": "What?", "completion": "No answer."}]
    rows = [{**row, "completion": f"{row['completion']}\n#### 1"} for row in rows[:-1]] + rows[-1:]
    content = {
        "train": {"path": write(tmp_path / "train.jsonl", rows)},
        "loss": {"fraction": 0.1},
        "template": "answer",
        "on_error": "drop",
        "cleaning": {"max_tokens": 500},
    }
    data = prepared(tmp_path, content, tokenizer=str(model_folder))
    assert data.report.of_set("train").examples == 21
    assert dropped(data) == {"missing field": 1, "held out for loss": 2}


def test_a_file_that_changes_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.jsonl"
    content = {"train": {"path": write(file, sums(9))}, "loss": {"fraction": 0.3}}
    inputs = Recipe.inputs

    def then_change(recipe: Recipe, cache: DataCache) -> dict[str, str]:
        found = inputs(recipe, cache)
        write(file, sums(len(file.read_text().splitlines()) + 1))
        return found

    monkeypatch.setattr(Recipe, "inputs", then_change)
    with pytest.raises(InputError, match="changed while it was read"):
        prepared(tmp_path, content)


def test_a_folder_without_its_last_file_is_made_anew(tmp_path: Path) -> None:
    content = {"train": {"path": write(tmp_path / "t.jsonl", sums(9))}, "loss": {"fraction": 0.3}}
    folder = prepared(tmp_path, content).folder
    (folder / "report.json").write_text("")
    assert len(prepared(tmp_path, content).examples("train")) == 6
