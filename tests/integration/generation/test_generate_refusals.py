"""Bad input is told in clear lines before a model is loaded."""

from __future__ import annotations

import json

import pytest
from generation_lab import Ended, Generating


def refusal(ended: Ended) -> list[str]:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    lines = ended.err.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines), ended.err
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("path: INPUTS/model", "path: /no/model", "model.path: given '/no/model', which is not"),
        ("path: INPUTS/model", "path: INPUTS", "(no model folder: it has no config.json)"),
        ("float32}", "float32, revision: main}", "model.revision: given 'main' for a local folder"),
        ("INPUTS/prompts.jsonl", "INPUTS/none.jsonl", "/none.jsonl: given no such file"),
        ("prompt: question", "prompt: text", "/prompts.jsonl:1: given no field 'text'"),
        ("  C2:", "  C1:", "/prompts.jsonl:3: given the level 'C2'; allowed: one of the levels"),
        ("output: OUTPUT", "output: INPUTS/model/config.json", "a file stands where a folder"),
        ("seed: 42", "seed: -1", "seed: given -1; allowed: greater than or equal to 0"),
    ],
)
def test_bad_input_is_told(generating: Generating, old: str, new: str, told: str) -> None:
    assert told in refusal(generating.run((old, new)))[0]


def test_a_missing_file_is_told(generating: Generating) -> None:
    process = generating.start(file="none.yaml")
    [line] = refusal(generating.end(process))
    assert line == "none.yaml: the file cannot be read: No such file or directory"


def test_a_device_that_is_not_here_is_told(generating: Generating) -> None:
    [line] = refusal(generating.end(generating.start(device="cuda:99")))
    assert line.startswith("--device: given 'cuda:99', which is not here")


def test_rows_that_cannot_be_used_are_dropped_when_asked(generating: Generating) -> None:
    rows = [{"level": "A1"}, {"question": "a", "level": "A1", "answers": "An answer."}]
    (generating.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = ("INPUTS/prompts.jsonl", str(generating.folder / "rows.jsonl"))
    ended = generating.run(path, ("seed: 42", "on_error: drop"))
    # With nothing but human responses no model is loaded.
    assert (ended.code, ended.err) == (0, "")
    assert f"dropped: {path[1]}:1: given no field 'question'" in ended.out
    assert "2 rows read: 0 prompts, 1 with human responses" in ended.out
    [line] = generating.lines("responses.jsonl")
    assert (line["prompt"], line["completion"]) == ("a", "An answer.")


def test_a_mended_file_may_use_the_folder(generating: Generating) -> None:
    rows = generating.folder / "rows.jsonl"
    path = ("INPUTS/prompts.jsonl", str(rows))
    rows.write_text('{"question": "a", "level": "A1", "answers": 5}\n')
    assert f"{rows}:1: given a number in 'answers'" in refusal(generating.run(path))[0]
    rows.write_text('{"question": "a", "level": "A1", "answers": "An answer."}\n')
    assert generating.run(path).code == 0
    rows.write_text('{"question": "b", "level": "A1", "answers": "An answer."}\n')
    told = refusal(generating.run(path))
    assert told[0].startswith(
        f"{generating.output} was begun with other settings: prompts.0.content: is 'sha256:"
    )


def test_a_moved_file_may_use_the_folder(generating: Generating) -> None:
    rows, moved = generating.folder / "rows.jsonl", generating.folder / "moved.jsonl"
    rows.write_text('{"question": "a", "level": "A1", "answers": ["One.", "Two."]}\n')
    assert generating.run(("INPUTS/prompts.jsonl", str(rows))).code == 0
    before = generating.text("responses.jsonl")
    rows.rename(moved)
    ended = generating.run(("INPUTS/prompts.jsonl", str(moved)))
    assert (ended.code, ended.err) == (0, "")
    assert generating.text("responses.jsonl") == before
    assert generating.count("human") == 2
