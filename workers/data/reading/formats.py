"""From a row to examples, as the study file says which fields are meant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.spec import templates
from hpo.spec.errors import InputError
from hpo.spec.sources import FieldValue, Source
from workers.data.example import Example, Turn
from workers.data.reading.conversations import (
    Alpaca,
    Conversations,
    Dialogue,
    Messages,
    PlainText,
    PromptCompletion,
    text_of,
)
from workers.data.reading.fields import Row, describe, find, has, required, scalar, string, unusable
from workers.data.reading.shots import shots_of

Forms = frozenset[tuple[type, FieldValue]]
"""What a value counts as when it is compared: a text, a number, a truth value."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Turns the rows of one source into examples; built once, cheap to pickle."""

    origin: str
    conversations: Conversations
    filters: tuple[tuple[str, Forms], ...] = ()
    """Fields and the values of which they must have one."""
    system: str | None = None
    shots: str | None = None
    template_fields: tuple[str, ...] = ()
    task_fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    answer: str | None = None
    quality: str | None = None

    @staticmethod
    def of(
        source: Source,
        *,
        template_fields: Sequence[str] = (),
        task_fields: Sequence[str] = (),
        labels: Sequence[str] = (),
        answer: str | None = None,
        quality: str | None = None,
        origin: str,
        first: Row,
    ) -> RowFormat:
        """The format of a source; its `first` row decides where that is `auto`.

        `template_fields` are the row's fields that the layout's text names,
        `task_fields` those that grading needs, which a row may lack, `labels`
        those by which examples are counted. `answer` and `quality` name
        fields, too. Raises InputError where the source's options do not
        go together.
        """
        return RowFormat(
            origin=origin,
            conversations=_conversations(resolved(source, first), origin),
            filters=tuple((name, _wanted_forms(value)) for name, value in source.where.items()),
            system=source.system,
            shots=source.examples,
            template_fields=tuple(template_fields),
            task_fields=tuple(task_fields),
            labels=tuple(labels),
            answer=answer,
            quality=quality,
        )

    def wanted(self, row: Row) -> bool:
        """Whether the source's `where` lets the row through.

        So it does with one that lacks a field that is asked for: `examples`
        then tells.
        """
        return all(
            not has(row, name) or _forms(find(row, name)) & wanted for name, wanted in self.filters
        )

    def examples(self, where: str, row: Row) -> list[Example]:
        """The examples of a row. Raises UnusableRow."""
        for name, _ in self.filters:
            required(row, name, where)
        known = self._known(where, row)
        lead = self._lead(where, row)
        return [
            Example(lead + turns, where, self.origin, **known)
            for turns in self.conversations.of(where, row)
        ]

    def _lead(self, where: str, row: Row) -> tuple[Turn, ...]:
        """The row's own system prompt, where it has one."""
        if self.system is None:
            return ()
        value = required(row, self.system, where)
        if value is None or value == "":
            return ()
        return (Turn("system", string(value, repr(self.system), where)),)

    def _known(self, where: str, row: Row) -> dict[str, Any]:
        """What the row tells besides its turns."""
        known: dict[str, Any] = {}
        if self.template_fields:
            known["fields"] = {
                name: scalar(required(row, name, where), repr(name), where)
                for name in self.template_fields
            }
        if self.task_fields:
            there = (name for name in self.task_fields if has(row, name))
            known["task_fields"] = {name: _text_or_json(find(row, name)) for name in there}
        if self.labels:
            known["labels"] = _labels(row, self.labels, where)
        if self.shots is not None:
            known["shots"] = shots_of(row, self.shots, where)
        if self.answer is not None:
            known["answer"] = scalar(required(row, self.answer, where), repr(self.answer), where)
        if self.quality is not None:
            known["quality"] = _quality(row, self.quality, where)
        return known


def resolved(source: Source, first: Row) -> Source:
    """The source with its format named; `auto` looks at the fields of the first row.

    A field that the source names decides before the usual ones do.
    """
    if source.format != "auto":
        return source
    if source.prompt is not None or source.completion is not None:
        return source.model_copy(update={"format": "prompt-completion"})
    if source.messages is not None:
        return _as_messages(source, first, source.messages)
    usual = _usual_format(first) if source.text is None else "text"
    if usual in ("messages", "conversations"):
        return _as_messages(source, first, usual)
    return source.model_copy(update={"format": usual})


def _usual_format(first: Row) -> str:
    if has(first, "prompt") and has(first, "completion"):
        return "prompt-completion"
    for name in ("messages", "conversations"):
        if has(first, name):
            return name
    if has(first, "instruction") and has(first, "output"):
        return "alpaca"
    return "text" if has(first, "text") else "prompt-completion"


def _as_messages(source: Source, first: Row, field: str) -> Source:
    """As messages or as sharegpt, by the keys of the first turn in the field."""
    turns = find(first, field) if has(first, field) else None
    turn = turns[0] if isinstance(turns, list) and turns else None
    keys = turn if isinstance(turn, Mapping) else {}
    default = "sharegpt" if field == "conversations" else "messages"
    found = "messages" if "role" in keys else "sharegpt" if "from" in keys else default
    return source.model_copy(update={"format": found, "messages": field})


def _conversations(source: Source, origin: str) -> Conversations:
    completion = text_of(source.completion or "completion")
    prompt = source.prompt or "prompt"
    match source.format:
        case "messages":
            return Messages(source.messages or "messages")
        case "sharegpt":
            return Messages(source.messages or "conversations", "from", "value")
        case "alpaca":
            return Alpaca()
        case "text":
            return PlainText(source.text or "text")
        case "dialogue":
            if templates.is_text(prompt):
                given = f"the prompt {prompt!r} in a dialogue"
                raise InputError(
                    f"{origin}: given {given}; allowed: the name of a field with utterances"
                )
            return Dialogue(prompt, completion)
        case _:
            return PromptCompletion(text_of(prompt), completion)


def _labels(row: Row, names: Sequence[str], where: str) -> dict[str, str]:
    found = {name: find(row, name) for name in names if has(row, name)}
    return {
        name: scalar(value, repr(name), where) for name, value in found.items() if value is not None
    }


def _text_or_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _quality(row: Row, field: str, where: str) -> float:
    value = required(row, field, where)
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        given = repr(value) if isinstance(value, str | int | float) else describe(value)
        raise unusable(where, "wrong type", f"{given} in {field!r}", "a number from 0 to 1")
    return number


def _number(value: Any) -> float | None:
    """A number, or a text that is one, as in a CSV file."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _wanted_forms(value: FieldValue | list[FieldValue]) -> Forms:
    """What is asked for: a number as a number only, and so on."""
    values = value if isinstance(value, list) else [value]
    return frozenset(_form(item) for item in values)


def _form(value: FieldValue) -> tuple[type, FieldValue]:
    if isinstance(value, bool):
        return bool, value
    return (str, value) if isinstance(value, str) else (float, value)


def _forms(value: Any) -> Forms:
    """All that a row's value may count as: a CSV file holds numbers as texts."""
    if not isinstance(value, str | int | float):
        return frozenset()
    forms = {_form(value)}
    if isinstance(value, str):
        number, word = _number(value), value.lower()
        if number is not None:
            forms.add((float, number))
        if word in ("true", "false"):
            forms.add((bool, word == "true"))
    return frozenset(forms)
