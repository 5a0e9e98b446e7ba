"""What makes two study files the same study.

Fields that change values are part of the identity and frozen with the study;
the budget, trackers, devices and the engines' sizes may change between runs.
Inputs count by their content, not by where they lie, so that a moved folder
is the same study and an edited file is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel

from hpo.spec.errors import InputError
from hpo.spec.study import StudySpec
from hpo.spec.training.compute import MECHANICAL

Inputs = TypeVar("Inputs", bound=BaseModel)
"""A study, or anything else with a data section and perhaps a model."""

FROZEN = ("objective", "model", "data", "training", "sampler", "pruner")
EVALUATION = ("every", "early_stopping")
DATA_SETS = ("train", "loss", "generation", "test")


def identity(spec: StudySpec) -> dict[str, Any]:
    """The frozen fields, each local input replaced by a hash of its content."""
    found = frozen(spec)
    for _, holder in input_paths(found):
        holder["path"] = fingerprint(holder["path"])
    return found


def frozen(spec: StudySpec) -> dict[str, Any]:
    """The frozen fields as they are; a name that is the default is like none."""
    content: dict[str, Any] = spec.model_dump(mode="json")
    found = {key: content[key] for key in FROZEN}
    found["evaluation"] = {key: content["evaluation"][key] for key in EVALUATION}
    for name in ("prompt", "completion"):
        if content["data"]["train"][name] == name:
            content["data"]["train"][name] = None
    found["training"] = _without_speed(content["training"])
    return found


def _without_speed(training: Mapping[str, Any]) -> dict[str, Any]:
    """A training section without what changes only how fast it is computed."""
    compute = training.get("compute")
    if not isinstance(compute, Mapping):
        return dict(training)
    kept = {
        key: value
        for key, value in compute.items()
        # A range is part of the search space, whatever it is of.
        if key not in MECHANICAL or isinstance(value, Mapping)
    }
    rest = {key: value for key, value in training.items() if key != "compute"}
    return rest | ({"compute": kept} if kept else {})


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """One line per field that differs, `path: is OLD, given NEW`."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        where = f"{path}.{key}" if path else key
        before, after = old.get(key), new.get(key)
        if _is_section(before) and _is_section(after):
            found += differences(before, after, where)
        elif before != after:
            found.append(f"{where}: is {before!r}, given {after!r}")
    return found


def fingerprint(path: str) -> str:
    """`sha256:...` of a local file or folder; a hub name stands for itself.

    Raises InputError for a file that cannot be read.
    """
    local = Path(path).expanduser()
    if local.is_file():
        return f"sha256:{_hash_file(local)}"
    if local.is_dir():
        whole = hashlib.sha256()
        for file in sorted(file for file in local.rglob("*") if file.is_file()):
            whole.update(f"{file.relative_to(local)} {_hash_file(file)}\n".encode())
        return f"sha256:{whole.hexdigest()}"
    return path


def absolute_inputs(spec: Inputs) -> Inputs:
    """The spec with every input that exists here named by its absolute path."""
    content = spec.model_dump(mode="json")
    for _, holder in input_paths(content):
        local = Path(holder["path"]).expanduser()
        if local.exists():
            holder["path"] = str(local.resolve())
    return type(spec).model_validate(content)


def input_paths(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a path of an input, by its place in the study file."""
    if content.get("model") is not None:
        yield "model", content["model"]
    for name in DATA_SETS:
        part = content["data"].get(name) or {}
        if part.get("path") is not None:
            yield f"data.{name}", part
        for index, source in enumerate(part.get("sources") or ()):
            yield f"data.{name}.sources.{index}", source
        task = part.get("task")
        if isinstance(task, dict) and task.get("path") is not None:
            yield f"data.{name}.task", task


def _is_section(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value has fields of its own; a range or choices count as one."""
    return isinstance(value, Mapping) and not {"low", "high", "choices"} & set(value)


def _hash_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{file}: given a file that cannot be read ({error.strerror}); allowed: a readable file"
        ) from error
