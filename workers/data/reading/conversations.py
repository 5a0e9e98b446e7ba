"""How a row becomes the turns of one or more conversations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from hpo.spec import templates
from workers.data.example import Role, Turn
from workers.data.reading.fields import (
    Row,
    describe,
    require_completion,
    required,
    scalar,
    string,
    unusable,
)

Turns = tuple[Turn, ...]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
"""Names of roles in published data sets."""


class TextOf(Protocol):
    """A text made of a row's fields."""

    def text(self, where: str, row: Row) -> str:
        """The text. Raises UnusableRow."""

    def texts(self, where: str, row: Row) -> list[str]:
        """The completions; a field may hold a list of them. Raises UnusableRow."""


@dataclass(frozen=True, slots=True)
class Named:
    """The text in a field."""

    name: str

    def text(self, where: str, row: Row) -> str:
        """The field's text. Raises UnusableRow."""
        value = row.get(self.name)
        if type(value) is str and value.isascii():
            return value
        value = required(row, self.name, where)
        return string(value, repr(self.name), where, self._advice(value))

    def texts(self, where: str, row: Row) -> list[str]:
        """The field's text, or those of its list. Raises UnusableRow."""
        value = row.get(self.name) or required(row, self.name, where)
        if not isinstance(value, list):
            return [require_completion(self.text(where, row), repr(self.name), where)]
        if not value:
            given, allowed = f"an empty list in {self.name!r}", "one completion or more"
            raise unusable(where, "empty completion", given, allowed)
        return [
            require_completion(string(item, what, where), what, where)
            for number, item in enumerate(value, start=1)
            for what in [f"{self.name!r} (item {number})"]
        ]

    def _advice(self, value: Any) -> str:
        if isinstance(value, int | float):
            return f'a string; "{{{self.name}}}", with braces, takes numbers and booleans, too'
        if isinstance(value, list):
            return "a string; format: dialogue takes a list of utterances as the prompt"
        return "a string"


@dataclass(frozen=True, slots=True)
class Filled:
    """A text with fields in braces."""

    parts: tuple[templates.Part, ...]

    def text(self, where: str, row: Row) -> str:
        """The text with the row's values in it. Raises UnusableRow."""
        return templates.fill(
            self.parts, lambda name: scalar(required(row, name, where), repr(name), where)
        )

    def texts(self, where: str, row: Row) -> list[str]:
        """The text alone. Raises UnusableRow."""
        return [require_completion(self.text(where, row), "completion", where)]


def text_of(field_or_text: str) -> TextOf:
    """What the name of a field, or a text with fields in braces, stands for."""
    if templates.is_text(field_or_text):
        return Filled(templates.parse(field_or_text))
    return Named(field_or_text)


class Conversations(Protocol):
    """A format: reads the conversations of a row."""

    def of(self, where: str, row: Row) -> Iterable[Turns]:
        """The turns of each, the last the assistant's. Raises UnusableRow."""


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A question and its answer, or several answers."""

    prompt: TextOf
    completion: TextOf

    def of(self, where: str, row: Row) -> list[Turns]:
        """One conversation of two turns per completion."""
        asked = Turn("user", self.prompt.text(where, row))
        return [(asked, Turn("assistant", text)) for text in self.completion.texts(where, row)]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Utterances that alternate, the last the user's, and the answer to them."""

    prompt: str
    completion: TextOf

    def of(self, where: str, row: Row) -> list[Turns]:
        """One conversation per completion; roles are assigned from the end."""
        utterances = required(row, self.prompt, where)
        if not isinstance(utterances, list) or not utterances:
            given = "an empty list" if utterances == [] else describe(utterances)
            allowed = "a list of utterances, the last of them the user's"
            raise unusable(where, "wrong type", f"{given} in {self.prompt!r}", allowed)
        past = tuple(
            Turn(
                "user" if (len(utterances) - number) % 2 == 0 else "assistant",
                string(text, f"{self.prompt!r} (item {number})", where),
            )
            for number, text in enumerate(utterances, start=1)
        )
        answers = self.completion.texts(where, row)
        return [(*past, Turn("assistant", text)) for text in answers]


@dataclass(frozen=True, slots=True)
class Messages:
    """A list of turns, each a mapping of role and content."""

    field: str
    role: str = "role"
    content: str = "content"

    def of(self, where: str, row: Row) -> list[Turns]:
        """The conversation up to its last answer."""
        messages = required(row, self.field, where)
        if not isinstance(messages, list):
            given = f"{describe(messages)} in {self.field!r}"
            allowed = f"a list of mappings with {self.role!r} and {self.content!r}"
            raise unusable(where, "wrong type", given, allowed)
        turns = [self._turn(item, number, where) for number, item in enumerate(messages, start=1)]
        while turns and turns[-1].role != "assistant":
            turns.pop()
        if not turns:
            given, allowed = f"no answer in {self.field!r}", "a turn of the assistant"
            raise unusable(where, "empty completion", given, allowed)
        require_completion(turns[-1].content, f"answer in {self.field!r}", where)
        return [tuple(turns)]

    def _turn(self, message: Any, number: int, where: str) -> Turn:
        what = f"{self.field!r} (turn {number})"
        if not isinstance(message, dict):
            allowed = f"a mapping with {self.role!r} and {self.content!r}"
            raise unusable(where, "wrong type", f"{describe(message)} in {what}", allowed)
        role = self._role(required(message, self.role, where), what, where)
        content = required(message, self.content, where)
        if isinstance(content, list):
            content = "".join(_part(part, what, where) for part in content)
        return Turn(role, string(content, what, where))

    def _role(self, name: Any, what: str, where: str) -> Role:
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            allowed = f"one of {', '.join(ROLES)}"
            raise unusable(where, "wrong type", f"the role {name!r} in {what}", allowed)
        return role


def _part(part: Any, what: str, where: str) -> str:
    """The text of one of the parts of a turn's content."""
    if isinstance(part, dict) and part.get("type") == "text" and "text" in part:
        return string(part["text"], what, where)
    kind = f"a part of type {part.get('type')!r}" if isinstance(part, dict) else describe(part)
    raise unusable(where, "wrong type", f"{kind} in {what}", "parts of type 'text'")


@dataclass(frozen=True, slots=True)
class Alpaca:
    """An instruction, an input where there is one, and an output."""

    def of(self, where: str, row: Row) -> list[Turns]:
        """One conversation; the input follows the instruction after a blank line."""
        prompt = Named("instruction").text(where, row)
        given = row.get("input")
        if given is not None and (text := string(given, "'input'", where)).strip():
            prompt = f"{prompt}\n\n{text}"
        answers = Named("output").texts(where, row)
        return [(Turn("user", prompt), Turn("assistant", text)) for text in answers]


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text that is learned as it is."""

    field: str

    def of(self, where: str, row: Row) -> list[Turns]:
        """One conversation of one turn."""
        text = require_completion(Named(self.field).text(where, row), repr(self.field), where)
        return [(Turn("assistant", text),)]
