import json
import sys
from pathlib import Path

import pytest

from hpo.spec.errors import InputError
from hpo.spec.study import DataSpec, EvaluationData, GenerationData, TrainData
from workers.data.sources import (
    Example,
    read_examples,
    read_generation_set,
    read_loss_set,
    read_training_set,
)

GOOD = '{"prompt": "1+1=", "completion": "2"}'


def write(folder: Path, *lines: str | bytes) -> str:
    file = folder / "data.jsonl"
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    file.write_bytes(b"".join(line + b"\n" for line in raw))
    return str(file)


def read(path: str, samples: int | None = None) -> list[Example]:
    return read_examples(
        path, prompt="prompt", completion="completion", split="train", samples=samples
    )


def refusal(path: str) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "given" in message
    assert "allowed" in message
    return message


def test_lines_become_examples_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", '{"completion": "ä\\n", "prompt": "", "more": [1]}')
    assert read(path) == [Example("1+1=", "2"), Example("", "ä\n")]


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert read(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())) == [Example("1+1=", "2")]


def test_samples_are_taken_from_the_start(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, "not read")
    assert read(path, samples=2) == [Example("1+1=", "2")] * 2


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ('{"prompt": "1+1=", ', "malformed JSON"),
        ("[1, 2]", "an array for a line"),
        ('"text"', "a string for a line"),
        ('{"question": "q", "completion": "c"}', "'question', 'completion'"),
        ('{"prompt": 3, "completion": "c"}', "a number in 'prompt'"),
        ('{"prompt": "p", "completion": 2.5}', "a number in 'completion'"),
        ('{"prompt": "p", "completion": true}', "a boolean in 'completion'"),
        ('{"prompt": "p", "completion": null}', "null in 'completion'"),
        ('{"prompt": "p", "completion": {}}', "an object in 'completion'"),
        ('{"prompt": "p", "completion": " \\n"}', "an empty 'completion'"),
        ('{"prompt": "\\ud800", "completion": "c"}', "surrogate"),
        (b'{"prompt": "\xe4", "completion": "c"}', "no UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, given: str) -> None:
    path = write(tmp_path, GOOD, line)
    message = refusal(path)
    assert message.startswith(f"{path}:2: ")
    assert given in message


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    assert "no examples" in refusal(write(tmp_path, "", "  "))


@pytest.mark.parametrize("name", ["missing.jsonl", "/nowhere/data", "./data", "a/b/c"])
def test_a_missing_file_is_refused(name: str) -> None:
    assert refusal(name).startswith(f"{name}: given no such file")


def test_a_name_needs_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets is installed" in refusal("openai/gsm8k:main")


def test_a_folder_is_read_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(f"{GOOD}\n")
    assert read(str(folder)) == [Example("1+1=", "2")]
    with pytest.raises(InputError, match="no data set with split 'nope'"):
        read_examples(
            str(folder), prompt="prompt", completion="completion", split="nope", samples=None
        )


def test_evaluation_sets_take_their_fields_from_the_training_set(tmp_path: Path) -> None:
    row = {"q": "1+1=", "a": "2", "b": "two"}
    path = write(tmp_path, json.dumps(row))
    data = DataSpec(
        train=TrainData(path=path, prompt="q", completion="a"),
        loss=EvaluationData(path=path),
        generation=GenerationData(path=path, completion="b"),
    )
    assert read_training_set(data) == read_loss_set(data) == [Example("1+1=", "2")]
    assert read_generation_set(data) == [Example("1+1=", "two")]
    without = data.model_copy(update={"generation": None})
    with pytest.raises(InputError, match="generation set"):
        read_generation_set(without)
