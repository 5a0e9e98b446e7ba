"""Where examples come from: JSONL files and `datasets` names.

Imports nothing heavy, so that a study file's data can be checked without the
workers' libraries.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hpo.spec.errors import InputError
from hpo.spec.study import DataSpec, EvaluationData


@dataclass(frozen=True)
class Example:
    """A prompt and the completion that is to be learned."""

    prompt: str
    completion: str


def read_examples(
    path: str, *, prompt: str, completion: str, split: str, samples: int | None
) -> list[Example]:
    """The first `samples` examples of a JSONL file or a `datasets` name.

    `prompt` and `completion` are names of fields. `split` is that of a
    `datasets` name (`name`, `name:config` or a folder); a file has none.
    Lines past the last wanted example are not read. Raises InputError, with
    the number of the line, for whatever cannot be used.
    """
    rows = _file_rows(path) if Path(path).is_file() else _dataset_rows(path, split)
    examples = [
        Example(_text(row, prompt, where), _completion(row, completion, where))
        for where, row in islice(rows, samples)
    ]
    if not examples:
        raise _refusal(path, "no examples", "one JSON object with the fields per line")
    return examples


def read_training_set(data: DataSpec) -> list[Example]:
    """The examples to train on."""
    train = data.train
    return read_examples(
        train.path,
        prompt=train.prompt,
        completion=train.completion,
        split=train.split,
        samples=train.samples,
    )


def read_loss_set(data: DataSpec) -> list[Example]:
    """The examples on which the loss is measured."""
    return _read_evaluation_set(data.loss, data)


def read_generation_set(data: DataSpec) -> list[Example]:
    """The examples for which answers are generated and graded.

    Raises InputError where the study names no generation set.
    """
    if data.generation is None:
        raise _refusal("data.generation", "nothing", "a generation set, which accuracy needs")
    return _read_evaluation_set(data.generation, data)


def _read_evaluation_set(part: EvaluationData, data: DataSpec) -> list[Example]:
    return read_examples(
        part.path,
        prompt=part.prompt or data.train.prompt,
        completion=part.completion or data.train.completion,
        split=part.split,
        samples=part.samples,
    )


def _file_rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and content of every line that is not blank."""
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, _parse(line, where)
    except OSError as error:
        raise _refusal(
            path, f"a file that cannot be read ({error.strerror})", "a readable file"
        ) from error


def _parse(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _refusal(
            where, f"bytes that are no UTF-8 at column {error.start + 1}", "UTF-8 text"
        ) from None
    except json.JSONDecodeError as error:
        given = f"malformed JSON ({error.msg} at column {error.colno})"
        raise _refusal(where, given, "one JSON object per line") from None
    except RecursionError:
        raise _refusal(where, "JSON nested too deeply", "one JSON object per line") from None
    if not isinstance(row, dict):
        raise _refusal(where, f"{_kind(row)} for a line", "one JSON object per line")
    return row


def _dataset_rows(path: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and content of the rows of a `datasets` name or folder."""
    if _looks_like_file(path):
        raise _refusal(path, "no such file", "a JSONL file, or a `datasets` name")
    rows = _load_dataset(path, split)
    return ((f"{path}[{split}]:{number}", row) for number, row in enumerate(rows, start=1))


def _load_dataset(path: str, split: str) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError:
        allowed = "a JSONL file, or a `datasets` name where the library datasets is installed"
        raise _refusal(path, "no such file", allowed) from None
    name, _, config = (path, "", "") if Path(path).is_dir() else path.partition(":")
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, config or None, split=split)
    except (
        OSError,
        ValueError,
        pickle.PicklingError,
        datasets.exceptions.DatasetsError,
    ) as error:
        given = f"no such file, and no data set with split {split!r} ({_one_line(error)})"
        raise _refusal(path, given, "a JSONL file, or a `datasets` name in reach") from error
    return rows


def _looks_like_file(path: str) -> bool:
    """Whether a path that is no file can only have been meant as one."""
    if Path(path).is_dir():
        return False
    rooted = path.startswith(("/", "./", "../", "~"))
    return rooted or path.count("/") > 1 or path.endswith((".jsonl", ".json"))


def _completion(row: Mapping[str, Any], field: str, where: str) -> str:
    text = _text(row, field, where)
    if not text.strip():
        raise _refusal(where, f"an empty {field!r}", "a completion with some text")
    return text


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        there = ", ".join(map(repr, row)) or "no fields"
        raise _refusal(where, f"no field {field!r}", f"a field that is there: {there}")
    value = row[field]
    if not isinstance(value, str):
        raise _refusal(where, f"{_kind(value)} in {field!r}", "a string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _refusal(where, f"half a surrogate pair in {field!r}", "Unicode text")
    return value


def _kind(value: object) -> str:
    """What JSON calls a value, with its article."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    if value is None:
        return "null"
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(where: str, given: str, allowed: str) -> InputError:
    return InputError(f"{where}: given {given}; allowed: {allowed}")
