"""Cleaning of single examples: what is dropped, and what is put in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpo.spec.cleaning import Cleaning
from workers.data.cleaning import fences, text
from workers.data.example import Example, Turn

ELLIPSES = ("...", "\u2026")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why an example is not used."""

    step: str
    """Name of the field of the cleaning that asked for it."""
    detail: str
    """What was found, such as `prompt of 12 characters`."""


class Cleaner:
    """Takes the steps of cleaning that look at one example alone.

    They are taken in the order of the specification's fields, the first that
    drops an example being the one that is named. Duplicates are found
    elsewhere. So are token limits where no `count_tokens` is given: their rule
    is `token_limit`.
    """

    def __init__(
        self, spec: Cleaning, count_tokens: Callable[[Example], int] | None = None
    ) -> None:
        self._spec = spec
        self._count_tokens = count_tokens

    def clean(self, example: Example) -> Example | Dropped:
        """The example, its code blocks in order if that is asked for, or why it is dropped."""
        if self._spec.broken_encoding and (found := _damage(example)):
            return Dropped("broken_encoding", found)
        if self._spec.code_blocks:
            example = with_standard_blocks(example)
        return (
            _too_short(example, self._spec)
            or _too_long(example, self._spec)
            or _incomplete(example, self._spec)
            or self._token_limit(example)
            or example
        )

    def _token_limit(self, example: Example) -> Dropped | None:
        limits = (self._spec.min_tokens, self._spec.max_tokens)
        if self._count_tokens is None or limits == (None, None):
            return None
        return token_limit(self._count_tokens(example), self._spec)


def token_limit(tokens: int, spec: Cleaning) -> Dropped | None:
    """Why an example of so many tokens is dropped, or None."""
    if spec.min_tokens is not None and tokens < spec.min_tokens:
        return Dropped("min_tokens", f"{tokens} tokens")
    if spec.max_tokens is not None and tokens > spec.max_tokens:
        return Dropped("max_tokens", f"{tokens} tokens")
    return None


def with_standard_blocks(example: Example) -> Example:
    """An example with the code blocks of its turns in order.

    It is left as it is when a turn before the answer ends inside a block: the
    next turn may go on with the code.
    """
    if not any("```" in turn.content or "~~~" in turn.content for turn in example.turns):
        return example
    if any(_ends_inside(turn.content) for turn in example.turns[:-1]):
        return example
    turns = tuple(Turn(turn.role, fences.standardised(turn.content)) for turn in example.turns)
    return dataclasses.replace(example, turns=turns)


def _ends_inside(content: str) -> bool:
    return any(not block.closed for block in fences.blocks(content))


def _damage(example: Example) -> str | None:
    for name, content in _texts(example):
        if found := text.damage(content):
            return f"{found} of the {name}"
    return None


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    """Everything of an example that may be learned or stand in its prompt, with names."""
    for turn in example.turns[:-1]:
        yield "system prompt" if turn.role == "system" else "prompt", turn.content
    yield "completion", example.completion
    for given, out in example.shots:
        yield "examples", given
        yield "examples", out
    for name, value in example.fields.items():
        yield f"field {name}", value


def _too_short(example: Example, spec: Cleaning) -> Dropped | None:
    if spec.min_characters is None:
        return None
    names = {"completion": example.completion}
    if any(turn.role != "system" for turn in example.turns[:-1]):
        names = {"prompt": example.prompt, **names}
    for name, content in names.items():
        if len(content) < spec.min_characters:
            return Dropped("min_characters", f"{name} of {len(content)} characters")
    return None


def _too_long(example: Example, spec: Cleaning) -> Dropped | None:
    if spec.max_characters is None:
        return None
    length = sum(len(turn.content) for turn in example.turns)
    if length <= spec.max_characters:
        return None
    return Dropped("max_characters", f"{length} characters together")


def _incomplete(example: Example, spec: Cleaning) -> Dropped | None:
    completion = example.completion
    if not spec.incomplete or len(completion) >= spec.incomplete_characters:
        return None
    if not any(mark in completion for mark in ELLIPSES):
        return None
    return Dropped("incomplete", f"'...' in a completion of {len(completion)} characters")
