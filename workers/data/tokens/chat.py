"""The layout of the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from workers.data.example import Example, RowProblem, Turn, UnusableRow
from workers.data.tokens.layout import Segments
from workers.data.tokens.special import Ending, SpecialTokens, refusal
from workers.data.tokens.wording import Wording

PROBE = "\udffe"
"""A content that is found again in what a template makes of it."""


@dataclass(frozen=True)
class _Answered:
    """What a template writes after an answer."""

    tail: str
    ending: Ending


class ChatLayout:
    """Turns as the tokenizer's chat template renders them.

    Nothing is assumed of a template but that an answer's text is followed by
    the same tail in every example, and that answering adds to the prompt
    without changing it; InputError says where that does not hold.
    """

    leads = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, wording: Wording, special: SpecialTokens
    ) -> None:
        self._tokenizer = tokenizer
        self._wording = wording
        self._special = special

    @property
    def ending(self) -> Ending:
        """The special token that ends the assistant's turn, else the end of the sequence."""
        return self._answered.ending

    def prompt(self, example: Example) -> Segments:
        """The turns before the answer, and the beginning of the assistant's turn."""
        turns = self._wording.turns(example)[:-1]
        return self._given(turns, self._render(example, turns, answered=False), example)

    def both(self, example: Example) -> tuple[Segments, Segments]:
        """The prompt, and the assistant's turn up to the token that ends it."""
        turns = self._wording.turns(example)
        prompt = self._render(example, turns[:-1], answered=False)
        whole = self._render(example, turns, answered=True)
        tail = self._answered.tail
        if not whole.startswith(prompt):
            raise _rewrites()
        if not whole.endswith(tail) or len(whole) - len(tail) < len(prompt):
            raise refusal("a chat template that ends answers in several ways", "chatml or plain")
        answer = Segments()
        answer.answer(whole[len(prompt) : len(whole) - len(tail)], self.ending)
        return self._given(turns[:-1], prompt, example), answer

    def _given(self, turns: Sequence[Turn], text: str, example: Example) -> Segments:
        """The prompt, in which earlier answers may be learned."""
        segments = Segments()
        done = 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant" and self._wording.every_turn:
                start, end = self._place(turns, index, text, example)
                segments.add(text[done:start])
                segments.answer(text[start:end], self.ending)
                done = end + len(self.ending.text)
        segments.add(text[done:])
        return segments

    def _place(
        self, turns: Sequence[Turn], index: int, text: str, example: Example
    ) -> tuple[int, int]:
        """Where in a prompt an earlier answer stands, its ending not included."""
        marked = [*turns[:index], Turn("assistant", PROBE), *turns[index + 1 :]]
        before, found, after = self._render(example, marked, answered=False).rpartition(PROBE)
        end = len(text) - len(after)
        around = text.startswith(before) and text.endswith(after) and len(before) <= end
        if not found or not around or not text.startswith(self.ending.text, end):
            raise refusal(
                "assistant with a chat template that changes earlier answers or does not end them",
                "completion",
                "loss_on",
            )
        return len(before), end

    @cached_property
    def _answered(self) -> _Answered:
        """Found by letting the template answer once.

        Raises InputError for a template that cannot be used with any example.
        """
        turns = self._wording.turns(Example.pair("a", PROBE))
        try:
            prompt = self._apply(turns[:-1], answered=False)
            whole = self._apply(turns, answered=True)
        except TemplateError as error:
            raise refusal(f"a chat template that fails ({error})", "chatml or plain") from error
        if not whole.startswith(prompt):
            raise _rewrites()
        _, found, tail = whole[len(prompt) :].rpartition(PROBE)
        if not found:
            raise refusal("a chat template that leaves out the answer", "chatml or plain")
        return _Answered(tail, self._special.ending(tail))

    def _render(self, example: Example, turns: Sequence[Turn], *, answered: bool) -> str:
        # A template that fails for every example is the study's problem, not this row's.
        _ = self._answered
        try:
            return self._apply(turns, answered=answered)
        except TemplateError as error:
            given = f"turns that the chat template refuses ({error})"
            problem = RowProblem(example.where, "malformed", given, "turns in the order it wants")
            raise UnusableRow(problem) from error

    def _apply(self, turns: Sequence[Turn], *, answered: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            tokenize=False,
            add_generation_prompt=not answered,
        )
        assert isinstance(text, str)
        return text


def _rewrites() -> Exception:
    return refusal("a chat template that rewrites the prompt once it is answered", "plain")
