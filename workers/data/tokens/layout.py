"""Layouts that are written here: plain, ChatML, and texts with named fields.

A layout turns an example into segments of text, given or learned. How the
tokenizer's own chat template does it is in `workers.data.tokens.chat`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Protocol

from hpo.spec import templates
from hpo.spec.data import DataSpec
from hpo.spec.templates import COMPLETION, DERIVED, Field, Part
from workers.answers.marks import final_answer
from workers.data.example import Example, RowProblem, UnusableRow
from workers.data.tokens.special import BREAK, Ending, SpecialTokens, refusal
from workers.data.tokens.wording import Wording

PROMPT, EXAMPLES, SYSTEM = "prompt", "examples", "system_prompt"
CHATML_END = "<|im_end|>\n"


class Segment(NamedTuple):
    """Text that is tokenised by itself."""

    text: str
    learned: bool
    token: int | None = None
    """Set for a token that is added by its id; `text` then shows it."""


class Segments(list[Segment]):
    """Segments in the making. Neighbours of the same kind become one."""

    def add(self, text: str, *, learned: bool = False) -> None:
        """Add text."""
        last = self[-1] if self else None
        if last is not None and last.learned == learned and last.token is None:
            self[-1] = Segment(last.text + text, learned)
        elif text:
            self.append(Segment(text, learned))

    def answer(self, text: str, ending: Ending) -> None:
        """Add a learned text and its ending, which is learned with it."""
        self.add(text + ending.text, learned=True)
        if ending.apart:
            self.append(Segment(ending.shown, True, ending.token))


class Layout(Protocol):
    """How an example becomes text. Only the assistant's segments are learned."""

    leads: bool
    """Whether the layout writes the start token itself."""

    @property
    def ending(self) -> Ending:
        """How the answer ends."""

    def prompt(self, example: Example) -> Segments:
        """Everything before the answer."""

    def both(self, example: Example) -> tuple[Segments, Segments]:
        """Everything before the answer, as `prompt` gives it, and the answer."""


class PlainLayout:
    """Turns on lines of their own, a separator, the answer."""

    leads = False

    def __init__(self, wording: Wording, special: SpecialTokens, separator: str) -> None:
        self._wording = wording
        self._separator = separator
        self.ending = special.end_of_text()

    def prompt(self, example: Example) -> Segments:
        """System prompt and a blank line, the turns, the separator."""
        *turns, _ = self._wording.turns(example)
        segments = Segments()
        if turns and turns[0].role == "system":
            segments.add(turns.pop(0).content + "\n\n")
        for index, turn in enumerate(turns):
            segments.add("\n" if index else "")
            if turn.role == "assistant" and self._wording.every_turn:
                segments.answer(turn.content, self.ending)
            else:
                segments.add(turn.content)
        segments.add(self._separator)
        return segments

    def both(self, example: Example) -> tuple[Segments, Segments]:
        """The prompt, and the completion with the end-of-sequence token."""
        answer = Segments()
        answer.answer(self._wording.disarm(example.completion), self.ending)
        return self.prompt(example), answer


class ChatMLLayout:
    """ChatML, whatever template the tokenizer has."""

    leads = False

    def __init__(self, wording: Wording, special: SpecialTokens) -> None:
        self._wording = wording
        self.ending = special.ending(CHATML_END)

    def prompt(self, example: Example) -> Segments:
        """Every turn between its tags, and the beginning of the answer's."""
        segments = Segments()
        for turn in self._wording.turns(example)[:-1]:
            segments.add(f"<|im_start|>{turn.role}\n")
            if turn.role == "assistant" and self._wording.every_turn:
                segments.answer(turn.content, self.ending)
                segments.add(CHATML_END[len(self.ending.text) :])
            else:
                segments.add(turn.content + CHATML_END)
        segments.add("<|im_start|>assistant\n")
        return segments

    def both(self, example: Example) -> tuple[Segments, Segments]:
        """The prompt, and the answer with its tag."""
        answer = Segments()
        answer.answer(self._wording.disarm(example.completion), self.ending)
        return self.prompt(example), answer


class TextLayout:
    """A text with named fields: what stands before the completion is the prompt."""

    def __init__(
        self, text: str, wording: Wording, special: SpecialTokens, data: DataSpec, start: str | None
    ) -> None:
        self._wording = wording
        self._names = _own_names(data)
        parts = _apart(templates.parse(text))
        first = next((i for i, part in enumerate(parts) if self._is_answer(part)), None)
        if first is None:
            raise refusal("a text without {completion}", "a text with it, after {prompt}")
        self._head, self._tail = parts[:first], parts[first:]
        named = {self._name(part) for part in self._head if isinstance(part, Field)}
        self._leads_prompt = EXAMPLES not in named
        _check_used(data, named)
        self._named = named
        last = self._tail[-1]
        self.ending = special.ending(last if isinstance(last, str) else "")
        self.leads = start is not None and isinstance(parts[0], str) and parts[0].startswith(start)

    def prompt(self, example: Example) -> Segments:
        """The text before the completion, filled in."""
        _require_place_for_system(example, self._named)
        segments = Segments()
        gap = False
        for part in self._head:
            if isinstance(part, str):
                segments.add(part.lstrip("\n") if gap else part)
                gap = False
            else:
                value = self._value(self._name(part), example)
                segments.add(value)
                gap = not value and self._name(part) in (SYSTEM, EXAMPLES)
        return segments

    def both(self, example: Example) -> tuple[Segments, Segments]:
        """The prompt, and the text from the completion on."""
        fields = self._tail if isinstance(self._tail[-1], Field) else self._tail[:-1]
        answer = Segments()
        text = templates.fill(fields, lambda name: self._value(self._alias(name), example))
        answer.answer(text, self.ending)
        return self.prompt(example), answer

    def _value(self, name: str, example: Example) -> str:
        known: dict[str, Callable[[], str]] = {
            SYSTEM: lambda: self._wording.system(example),
            EXAMPLES: lambda: self._wording.examples(example),
            PROMPT: lambda: self._wording.prompt(example, with_examples=self._leads_prompt),
            COMPLETION: lambda: self._wording.disarm(example.completion),
        }
        if name in known:
            return known[name]()
        value = _derived(name, example) if name in DERIVED else _field(name, example)
        return self._wording.disarm(value)

    def _is_answer(self, part: Part) -> bool:
        return isinstance(part, Field) and self._name(part) in (COMPLETION, *DERIVED)

    def _name(self, part: Field) -> str:
        return self._alias(part.name)

    def _alias(self, name: str) -> str:
        return self._names.get(name, name)


def _apart(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts with a break between two fields, whose texts could make up a special token."""
    apart = list(parts[:1])
    for one, other in pairwise(parts):
        if isinstance(one, Field) and isinstance(other, Field):
            apart.append(BREAK)
        apart.append(other)
    return tuple(apart)


def _own_names(data: DataSpec) -> dict[str, str]:
    """The data's own names for what a layout calls prompt and completion."""
    names = {data.train.prompt: PROMPT, data.train.completion: COMPLETION}
    reserved = {*templates.RESERVED, *DERIVED}
    return {name: role for name, role in names.items() if name and name not in reserved}


def _check_used(data: DataSpec, named: set[str]) -> None:
    """Refuse what a layout would leave out without a word."""
    if data.system_prompt is not None and SYSTEM not in named:
        raise refusal("a system prompt", "none, or a template with {system_prompt}", SYSTEM)
    if data.few_shot is not None and not named & {EXAMPLES, PROMPT}:
        raise refusal("few-shot examples", "none, or a template with {examples}", "few_shot")


def _require_place_for_system(example: Example, named: set[str]) -> None:
    if SYSTEM not in named and example.turns[0].role == "system":
        raise _missing(
            example,
            "a system prompt of the example's own",
            "none, or a data.template with {system_prompt}",
        )


def _field(name: str, example: Example) -> str:
    if name not in example.fields:
        raise _missing(example, f"no field {name!r}", "every field that data.template names")
    return example.fields[name]


def _derived(name: str, example: Example) -> str:
    """The completion's final answer, or what leads to it."""
    found = final_answer(example.completion)
    if found is None:
        raise _missing(
            example,
            "a completion without a final answer",
            "one after ####, in a box or in answer tags, which data.template needs",
        )
    return found[DERIVED.index(name)]


def _missing(example: Example, given: str, allowed: str) -> UnusableRow:
    return UnusableRow(RowProblem(example.where, "missing field", given, allowed))
