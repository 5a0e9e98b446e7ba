"""From a row to a prompt, or to the human responses that it brings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from hpo.spec.generate import GenerateSpec
from hpo.spec.sources import Source
from workers.data.example import Turn
from workers.data.reading.conversations import ROLES, text_of
from workers.data.reading.fields import Row, describe, find, has, required, scalar, string, unusable
from workers.data.reading.formats import RowFormat


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for its response."""

    turns: tuple[Turn, ...]
    """Without a system turn; the last one is the user's."""
    system: str | None
    """The system prompt in force: the row's own, or its level's."""
    level: str
    origin: str
    """Where its row was read."""
    file: str
    """Path of its source."""

    @property
    def id(self) -> str:
        """Equal for prompts that ask for the same, wherever they were read."""
        content = [self.level, self.system, [[turn.role, turn.content] for turn in self.turns]]
        return identity(json.dumps(content))

    @property
    def text(self) -> str:
        """Every turn, separated by a blank line."""
        return "\n\n".join(turn.content for turn in self.turns)

    def seed(self, seed: int, attempt: int) -> int:
        """The seed of an attempt's sampling, 32 bits: no neighbour in a batch changes it."""
        content = f"{seed}:{self.id}:{attempt}".encode()
        return int.from_bytes(blake2b(content, digest_size=4).digest(), "big")


@dataclass(frozen=True, slots=True)
class HumanResponse:
    """A response that the data brings."""

    prompt: Prompt
    text: str
    place: tuple[int, int, int]
    """Source, row of the source and response of the row, each from 1."""

    @property
    def number(self) -> int:
        """Its place among the responses of its row, from 1."""
        return self.place[2]

    @property
    def id(self) -> str:
        """Different for every response of every row, and the same wherever the source lies."""
        return identity(json.dumps([self.place, self.prompt.id, self.text]))


def identity(text: str) -> str:
    """A hash of a text, 24 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=12).hexdigest()


class PromptReader:
    """Reads the rows of one of the file's sources."""

    def __init__(self, spec: GenerateSpec, index: int) -> None:
        source = spec.prompts[index]
        self._spec = spec
        self._index = index
        self._source = source
        rows = Source(where=source.where, format="prompt-completion")
        self._rows = RowFormat.of(rows, origin=source.path, first={})

    def wanted(self, row: Row) -> bool:
        """Whether the source's filter lets a row through."""
        return self._rows.wanted(row)

    def read(self, where: str, row_number: int, row: Row) -> Prompt | list[HumanResponse]:
        """The row's prompt, or its human responses where it has any.

        `row_number` counts the rows of the source from 1. Raises UnusableRow.
        """
        for name in self._source.where:
            required(row, name, where)
        level = self._level(where, row)
        turns = self._turns(where, row)
        own = turns[0].content if turns[0].role == "system" else None
        system = own if own is not None else self._spec.levels[level].system_prompt
        spoken = turns[1:] if own is not None else turns
        if not spoken or spoken[-1].role != "user" or not spoken[-1].content.strip():
            field = self._source.prompt
            raise unusable(where, "wrong type", f"no question at the end of {field!r}", QUESTION)
        prompt = Prompt(spoken, system, level, where, self._source.path)
        return [
            HumanResponse(prompt, text, (self._index + 1, row_number, number))
            for number, text in enumerate(self._responses(where, row), start=1)
        ] or prompt

    def _level(self, where: str, row: Row) -> str:
        field, default = self._source.level, self._spec.default_level
        if field is None:
            level = self._source.fixed_level or default
        else:
            given = find(row, field) if has(row, field) else None
            level = default if given in (None, "") else scalar(given, repr(field), where)
        levels = ", ".join(self._spec.levels)
        if level is None:
            allowed = f"one of the levels {levels}, or a default_level"
            raise unusable(where, "missing field", f"no level in {field!r}", allowed)
        if level not in self._spec.levels:
            given = f"the level {level!r}"
            raise unusable(where, "wrong type", given, f"one of the levels {levels}")
        return level

    def _turns(self, where: str, row: Row) -> tuple[Turn, ...]:
        field = self._source.prompt
        match self._source.format:
            case "text":
                return (Turn("user", text_of(field).text(where, row)),)
            case "dialogue":
                return _dialogue(required(row, field, where), field, where)
            case "messages":
                return _messages(required(row, field, where), field, where)

    def _responses(self, where: str, row: Row) -> list[str]:
        """The row's human responses; blank ones are none."""
        field = self._source.response
        value = find(row, field) if field is not None and has(row, field) else None
        given = value if isinstance(value, list) else [] if value is None else [value]
        texts = [string(text, repr(field), where, "a text or a list of texts") for text in given]
        return [text for text in texts if text.strip()]


QUESTION = "a text, or turns whose last one is the user's and not blank"
PAIRS = (("role", "content"), ("from", "value"))


def _dialogue(value: Any, field: str, where: str) -> tuple[Turn, ...]:
    """Two sides in turn; the last text is the user's."""
    texts = [string(text, repr(field), where) for text in _sequence(value, field, where)]
    last = len(texts) - 1
    return tuple(
        Turn("user" if (last - place) % 2 == 0 else "assistant", text)
        for place, text in enumerate(texts)
    )


def _messages(value: Any, field: str, where: str) -> tuple[Turn, ...]:
    return tuple(_turn(turn, field, where) for turn in _sequence(value, field, where))


def _turn(turn: Any, field: str, where: str) -> Turn:
    allowed = "turns with role (system, user, assistant) and content"
    if isinstance(turn, Mapping):
        for role_field, content_field in PAIRS:
            role = ROLES.get(str(turn.get(role_field)).lower())
            if role is not None and content_field in turn:
                content = string(turn[content_field], f"{content_field!r} of {field!r}", where)
                return Turn(role, content)
    given = "a turn without a known role and content" if isinstance(turn, Mapping) else None
    raise unusable(where, "wrong type", f"{given or describe(turn)} in {field!r}", allowed)


def _sequence(value: Any, field: str, where: str) -> Sequence[Any]:
    if isinstance(value, list) and value:
        return value
    given = "an empty list" if value == [] else describe(value)
    raise unusable(where, "wrong type", f"{given} in {field!r}", "a list of turns")
