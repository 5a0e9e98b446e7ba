"""Values of a row's fields, and what is told about those that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from numbers import Number
from typing import Any, Literal

from workers.data.example import RowProblem, UnusableRow

Row = Mapping[str, Any]
Kind = Literal["malformed", "encoding", "missing field", "wrong type", "empty completion"]

NAMES_SHOWN = 20


def find(row: Row, name: str) -> Any:
    """The value of a field; a dotted name reaches into nested mappings.

    A field of that very name goes first. Raises KeyError.
    """
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    if dot and isinstance(row.get(first), Mapping):
        return find(row[first], rest)
    raise KeyError(name)


def has(row: Row, name: str) -> bool:
    """Whether `find` gives a value."""
    try:
        find(row, name)
    except KeyError:
        return False
    return True


def required(row: Row, name: str, where: str) -> Any:
    """The value of a field. Raises UnusableRow where it is missing."""
    try:
        return find(row, name)
    except KeyError:
        allowed = f"a field that is there: {names(row)}"
        raise unusable(where, "missing field", f"no field {name!r}", allowed) from None


def names(row: Row) -> str:
    """The names of a row's fields, as a list for people."""
    shown = ", ".join(map(repr, islice(row, NAMES_SHOWN))) or "no fields"
    return f"{shown} and {len(row) - NAMES_SHOWN} more" if len(row) > NAMES_SHOWN else shown


def string(value: Any, what: str, where: str, allowed: str = "a string") -> str:
    """A value that must be a text of Unicode characters.

    `what` names it in the message. Raises UnusableRow.
    """
    if not isinstance(value, str):
        raise unusable(where, "wrong type", f"{describe(value)} in {what}", allowed)
    if not value.isascii():
        _require_unicode(value, what, where)
    return value


def scalar(value: Any, what: str, where: str) -> str:
    """A text, number or boolean as a text. Raises UnusableRow for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return str(value)
    return string(value, what, where, "a string, a number or a boolean")


def _require_unicode(text: str, what: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        given = f"half a surrogate pair in {what} at character {error.start + 1}"
        raise unusable(where, "encoding", given, "Unicode text") from None


def require_completion(text: str, what: str, where: str) -> str:
    """A completion with some text. Raises UnusableRow for a blank one."""
    if not text or text.isspace():
        raise unusable(where, "empty completion", f"an empty {what}", "a completion with some text")
    return text


def describe(value: object) -> str:
    """What JSON calls a value, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case Number():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "an object"
        case _:
            return f"a value of type {type(value).__name__}"


def unusable(where: str, kind: Kind, given: str, allowed: str) -> UnusableRow:
    """The error to raise for a row that cannot be used."""
    return UnusableRow(RowProblem(where, kind, given, allowed))
