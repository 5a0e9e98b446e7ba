"""Turns what pydantic found wrong into problems that a person can act on."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hpo.spec.errors import Problem

WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "string_too_short": "some text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "invalid_key": "text as a key",
}
"""What is allowed, by the type of pydantic's error, where its own words are clumsy."""


def describe(
    error: ValidationError, model: type[BaseModel], given: Any, prefix: str = ""
) -> list[Problem]:
    """One problem for each thing that pydantic found, in its order.

    `given` is the tree that was validated into `model`; `prefix` leads every
    path.
    """
    return [_problem(detail, model, given, prefix) for detail in error.errors()]


def _problem(detail: ErrorDetails, model: type[BaseModel], given: Any, prefix: str) -> Problem:
    keys = _keys(detail["loc"], given, missing=detail["type"] == "missing")
    path = ".".join([prefix, *keys] if prefix else keys)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(path, "an unknown key", _known(model, given, keys))
    if kind == "missing":
        return Problem(path, "nothing", "a value, which is required")
    if kind == "broken_rule":
        rule = detail["ctx"]
        return Problem(".".join(filter(None, [path, rule["field"]])), rule["given"], detail["msg"])
    if kind == "union_tag_not_found":
        return Problem(path, repr(detail["input"]), "a mapping with the key type")
    if kind == "union_tag_invalid":
        tag = detail["ctx"]["tag"]
        return Problem(f"{path}.type", repr(tag), str(detail["ctx"]["expected_tags"]))
    return Problem(path, _shown(detail["input"]), WORDS.get(kind) or _allowed(detail["msg"]))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text[:1].lower() + text[1:]


def _keys(location: Iterable[int | str], given: Any, *, missing: bool) -> list[str]:
    """The keys of a location without the tags that pydantic adds for unions.

    The last one stands in what was given, unless just that is `missing`.
    """
    keys: list[str] = []
    parts = list(location)
    for index, part in enumerate(parts):
        inside = isinstance(given, Mapping) and part in given
        inside = inside or (isinstance(given, list) and isinstance(part, int))
        if inside:
            given = given[part]
        elif not missing or index < len(parts) - 1:
            continue
        keys.append(str(part))
    return keys


def _known(model: type[BaseModel], given: Any, keys: list[str]) -> str:
    return known_keys(keys[-1], _fields(model, given, keys[:-1]))


def known_keys(given: str, allowed: Sequence[str]) -> str:
    """The allowed keys, and the one that was probably meant."""
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return ", ".join(allowed) + hint


def _fields(model: type[BaseModel], given: Any, keys: list[str]) -> list[str]:
    """Field names of the model that the keys lead to."""
    for key in keys:
        given = _inside(given, key)
        # The place in a list, or the name of an entry, is no field of a model.
        if (field := model.model_fields.get(key)) is not None:
            model = _model_of(field.annotation, given) or model
    return list(model.model_fields)


def _inside(given: Any, key: str) -> Any:
    if isinstance(given, list):
        return given[int(key)]
    return given.get(key) if isinstance(given, Mapping) else None


def _model_of(annotation: Any, given: Any) -> type[BaseModel] | None:
    """The model of an annotation; in a union the one whose type is given."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [_model_of(part, given) for part in typing.get_args(annotation)]
    found = [model for model in models if model is not None]
    tag = given.get("type") if isinstance(given, Mapping) else None
    for model in found:
        if "type" in model.model_fields and tag in typing.get_args(
            model.model_fields["type"].annotation
        ):
            return model
    return found[0] if found else None
