"""An example's own pairs of input and output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workers.data.reading.fields import Row, describe, required, scalar, unusable

PAIRS = (
    "a list of {input, output} or of [input, output], a mapping of two lists, input and output, "
    "or one of these as a JSON string"
)
NAMES = (("input", "output"), ("inputs", "outputs"))


def shots_of(row: Row, field: str, where: str) -> tuple[tuple[str, str], ...]:
    """The pairs in a field; none for null, an empty list or an empty text.

    Raises UnusableRow.
    """
    value = _parsed(required(row, field, where), field, where)
    what = repr(field)
    return tuple(
        (scalar(given, what, where), scalar(out, what, where))
        for given, out in _pairs(value, what, where)
    )


def _parsed(value: Any, field: str, where: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        given = f"a string that is no JSON in {field!r}"
        raise unusable(where, "wrong type", given, PAIRS) from None


def _pairs(value: Any, what: str, where: str) -> list[tuple[Any, Any]]:
    if not value:
        return []
    if isinstance(value, Mapping):
        return _columns(value, what, where)
    if not isinstance(value, list):
        raise unusable(where, "wrong type", f"{describe(value)} in {what}", PAIRS)
    return [_pair(item, what, where) for item in value]


def _columns(value: Mapping[str, Any], what: str, where: str) -> list[tuple[Any, Any]]:
    both = _named(value)
    if both is None or not isinstance(both[0], list) or not isinstance(both[1], list):
        raise unusable(where, "wrong type", f"an object in {what}", PAIRS)
    if len(both[0]) != len(both[1]):
        given = f"{len(both[0])} inputs and {len(both[1])} outputs in {what}"
        raise unusable(where, "wrong type", given, "as many outputs as inputs")
    return list(zip(*both, strict=True))


def _pair(item: Any, what: str, where: str) -> tuple[Any, Any]:
    if isinstance(item, list) and len(item) == 2:
        return item[0], item[1]
    both = _named(item) if isinstance(item, Mapping) else None
    if both is None:
        raise unusable(where, "wrong type", f"{describe(item)} among the pairs in {what}", PAIRS)
    return both


def _named(item: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The values under `input` and `output`, or under `inputs` and `outputs`."""
    for given, out in NAMES:
        if given in item and out in item:
            return item[given], item[out]
    return None
