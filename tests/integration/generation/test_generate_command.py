"""What a run writes, tells and refuses."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from generation_lab import LONG, Ended, Generating

from hpo.spec.sources import WeightedSource
from workers.data.example import RowProblem, Turn
from workers.data.reading.formats import RowFormat
from workers.data.reading.rows import read_chunks

pytestmark = [pytest.mark.engine, pytest.mark.slow]
Whole = tuple[Generating, Ended]


def test_it_reports_what_it_wrote(whole: Whole) -> None:
    generating, ended = whole
    assert (ended.code, ended.err) == (0, ""), ended
    report = json.loads(generating.text("report.json"))
    counted = Counter(
        (line["level"], line["source"]) for line in generating.lines("responses.jsonl")
    )
    for level, row in report["levels"].items():
        assert (row["human"], row["generated"]) == (
            counted[level, "human"],
            counted[level, "generated"],
        )
    assert report["responses"] == counted.total()
    assert report["sources"]["human"]["count"] == 8
    assert report["sources"].keys() == {"human", "generated"}
    assert report["sources"]["generated"]["count"] + report["given_up"] == 36
    assert sum(report["refused"].values()) == len(generating.lines("refused.jsonl"))
    assert "40 rows read: 36 prompts, 4 with human responses" in ended.out
    assert "  generated" in ended.out


def test_every_line_says_where_it_comes_from(whole: Whole) -> None:
    generating, _ = whole
    lines = generating.lines("responses.jsonl")
    human = next(line for line in lines if line["source"] == "human")
    assert human["provenance"]["file"] == f"{generating.inputs}/prompts.jsonl"
    assert human["provenance"]["content"].startswith("sha256:")
    assert human["origin"] == f"{generating.inputs}/prompts.jsonl:2"
    for line in (line for line in lines if line["source"] == "generated"):
        known = line["provenance"]
        assert known["model"] == f"{generating.inputs}/model"
        assert known["revision"].startswith("sha256:")
        assert known["settings"]["max_new_tokens"] == {"A1": 120, "C2": 150}[line["level"]]
        assert known["settings"]["template"] == "plain"
        assert known["finish_reason"] in ("stop", "length")
        assert known["attempt"] in (1, 2)
    seeds = [line["provenance"].get("seed") for line in lines[8:]]
    assert len(set(seeds)) == len(seeds)


def test_a_refused_response_is_tried_again_with_another_seed(whole: Whole) -> None:
    generating, _ = whole
    refused = generating.lines("refused.jsonl")
    again = {line["id"] for line in refused if line["provenance"].get("attempt") == 1}
    later = [
        line
        for line in [*generating.lines("responses.jsonl"), *refused]
        if line["provenance"].get("attempt") == 2
    ]
    assert {line["id"] for line in later} == again
    assert again
    first = {line["id"]: line["provenance"].get("seed") for line in refused}
    accepted = [line for line in later if "reason" not in line]
    assert all(first[line["id"]] != line["provenance"]["seed"] for line in accepted)


def test_a_prompt_that_does_not_fit_is_refused_by_its_line(whole: Whole) -> None:
    generating, ended = whole
    [line] = [
        line for line in generating.lines("refused.jsonl") if line["reason"] == "prompt too long"
    ]
    assert line["origin"] == f"{generating.inputs}/prompts.jsonl:{LONG}"
    assert f"refused: {line['origin']}: prompt too long" in ended.out


def test_a_study_can_read_it(whole: Whole) -> None:
    generating, _ = whole
    source = WeightedSource(path=str(generating.output / "responses.jsonl"), system="system_prompt")
    [chunk] = read_chunks(source.path)
    rows = [(where, row) for where, row in chunk.rows() if not isinstance(row, RowProblem)]
    labels = ("level", "source")
    reader = RowFormat.of(source, labels=labels, origin=source.path, first=rows[0][1])
    examples = [example for where, row in rows for example in reader.examples(where, row)]
    assert len(examples) == len(generating.lines("responses.jsonl"))
    beginner = next(example for example in examples if example.labels["level"] == "A1")
    assert beginner.turns[0] == Turn("system", "You teach beginners.")
    assert {example.labels["source"] for example in examples} == {"human", "generated"}


def test_nothing_is_left_to_do(whole: Whole) -> None:
    generating, first = whole
    before = generating.text("responses.jsonl"), generating.text("refused.jsonl")
    ended = generating.run()
    assert ended.code == 0
    assert "loading" not in ended.out
    assert (generating.text("responses.jsonl"), generating.text("refused.jsonl")) == before
    assert ended.out.partition("rows read")[2] == first.out.partition("rows read")[2]


def test_other_settings_are_refused(whole: Whole) -> None:
    generating, _ = whole
    ended = generating.run(("seed: 42", "seed: 43"), ("attempts: 2", "attempts: 5"))
    out = generating.output
    assert ended.code == 2
    assert ended.err.splitlines() == [
        f"error: {out} was begun with other settings: attempts: is 2, given 5",
        f"error: {out} was begun with other settings: seed: is 42, given 43",
        "error: allowed: the same settings and inputs, or another output folder",
    ]
