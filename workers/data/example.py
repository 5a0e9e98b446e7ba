"""An example: turns of a conversation, the last of which is the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# An encoder of its own: `json.dumps` makes one per call.
_encode = json.JSONEncoder(ensure_ascii=False).encode

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the completion that is to be learned, as turns.

    The last turn is the assistant's. A plain text is that turn alone.
    """

    turns: tuple[Turn, ...]
    where: str = field(default="", compare=False)
    """The row it was read from, FILE:LINE."""
    origin: str = field(default="", compare=False)
    """Path of the source that it is from."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the row that the layout's text names."""
    task_fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the row that grading its answers needs, as they are; JSON of what is no text."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values of the fields by which examples are counted."""
    shots: tuple[tuple[str, str], ...] = ()
    """Its own pairs of input and output, for few-shot prompts."""
    answer: str | None = None
    """The known final answer, where the data names it."""
    quality: float | None = None
    """From 0 to 1, where the study asks for a score."""

    @staticmethod
    def pair(prompt: str, completion: str, **known: Any) -> Example:
        """An example of one question and its answer."""
        return Example((Turn("user", prompt), Turn("assistant", completion)), **known)

    @property
    def prompt(self) -> str:
        """Everything before the answer, turns separated by a blank line."""
        return "\n\n".join(turn.content for turn in self.turns[:-1] if turn.role != "system")

    @property
    def completion(self) -> str:
        """The answer."""
        return self.turns[-1].content

    def content(self) -> bytes:
        """What it says, as JSON: equal for equal examples, wherever they were read."""
        content: dict[str, Any] = {"turns": [[turn.role, turn.content] for turn in self.turns]}
        for name in ("fields", "task_fields", "labels", "shots", "answer", "quality"):
            value = getattr(self, name)
            if value not in (None, {}, ()):
                content[name] = value
        return _encode(content).encode()

    def as_line(self) -> bytes:
        """The example as one line of JSON."""
        return self.with_place(self.content())

    def with_place(self, content: bytes) -> bytes:
        """The line that `as_line` gives, made of its own `content`."""
        place = _encode({"where": self.where, "origin": self.origin}).encode()
        return content[:-1] + b", " + place[1:] + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Example:
        """The example that `as_line` wrote."""
        content = json.loads(line)
        content["turns"] = tuple(Turn(role, text) for role, text in content["turns"])
        content["shots"] = tuple((given, out) for given, out in content.get("shots", ()))
        return Example(**content)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row cannot be used."""

    where: str
    """FILE:LINE, FILE:row N."""
    kind: Literal[
        "malformed", "encoding", "missing field", "wrong type", "empty completion", "long prompt"
    ]
    given: str
    allowed: str

    def line(self) -> str:
        """The problem as one line."""
        return f"{self.where}: given {self.given}; allowed: {self.allowed}"


class UnusableRow(Exception):
    """Carries a RowProblem from where it is found to where it is counted."""

    def __init__(self, problem: RowProblem) -> None:
        super().__init__(problem.line())
        self.problem = problem
