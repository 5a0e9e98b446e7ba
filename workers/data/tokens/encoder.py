"""Examples as token ids: layouts, learned spans, many at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from hpo.spec import templates
from hpo.spec.data import DataSpec
from workers.data.example import Example, RowProblem, UnusableRow
from workers.data.offsets import offsets_of
from workers.data.tokens.arrays import EncodedArrays, token_type
from workers.data.tokens.chat import ChatLayout
from workers.data.tokens.encoded import EncodedExample, EncodedSet
from workers.data.tokens.layout import ChatMLLayout, Layout, PlainLayout, Segment, TextLayout
from workers.data.tokens.special import BREAK, SpecialTokens, refusal
from workers.data.tokens.wording import Wording

TOKENISED_AT_ONCE = 64
"""Examples per call of the tokenizer. More make it slower: its results leave the cache."""


class _Plan(NamedTuple):
    """An example as segments."""

    example: Example
    prompt: Sequence[Segment]
    answer: Sequence[Segment]


class _Tokens(NamedTuple):
    """An example as tokens."""

    ids: list[int]
    learned: list[tuple[int, int]]
    prompt_length: int
    weight: float


class Encoder:
    """Turns examples into token ids by one layout.

    Prompt and answer are tokenised apart, and so is all that is learned from
    what is not: a prompt has the same tokens in training and in generation.
    The token that ends an answer is always learned. Special tokens come from
    the layout alone; what looks like one in the data is spelt out.

    An example that is one text alone has no prompt and takes no layout: after
    the start token, where there is one, all of it is learned, with the
    end-of-sequence token.

    `shots` are the examples for `few_shot: {origin: train}`. Raises InputError
    when the tokenizer lacks what the layout needs.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, data: DataSpec, *, shots: Sequence[Example] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._special = SpecialTokens(tokenizer)
        self._all = data.loss_on == "all"
        # Ids may have gaps, so that there are fewer of them than the largest says.
        self._token_type = token_type(max(tokenizer.get_vocab().values()) + 1)
        self.template = _resolved(data.template, tokenizer)
        """Name of the layout; `text` for a text of the study's own."""
        wording = Wording(data, shots, self._special)
        self._layout = self._make_layout(data, wording)
        start = self._special.start()
        self._start = [] if start is None else [Segment(str(tokenizer.bos_token), False, start)]

    @property
    def end_token(self) -> int:
        """The token that ends every answer; generation stops at it."""
        return self._layout.ending.token

    def encode_prompt(self, example: Example) -> list[int]:
        """Token ids that generation starts from; never cut.

        Raises InputError where there are none, UnusableRow for an example that
        does not go with the layout.
        """
        prompt = [] if _is_text(example) else self._led(self._layout.prompt(example))
        ids = next(self._tokenised([_Plan(example, prompt, [])])).ids
        if not ids:
            raise _no_prompt(example)
        return ids

    def encode_whole(self, example: Example) -> EncodedExample:
        """Token ids of an example, however long. Raises like `encode_prompt`."""
        tokens = next(self._tokenised([self._plan(example)]))
        return EncodedExample(tuple(tokens.ids), tuple(tokens.learned), tokens.weight)

    def encode_many(
        self,
        examples: Sequence[Example],
        on_problem: Callable[[int, RowProblem], None] | None = None,
    ) -> EncodedSet:
        """What `encode_whole` gives for each, with few calls of the tokenizer.

        An example that does not go with the layout raises UnusableRow, or is
        left out where `on_problem` takes its index and what is wrong with it.
        """
        ids, weights = array("I"), array("f")
        spans = array("i")
        lengths, counts = array("q"), array("q")
        for tokens in self._stream(examples, on_problem):
            ids.extend(tokens.ids)
            weights.append(tokens.weight)
            lengths.append(len(tokens.ids))
            counts.append(len(tokens.learned))
            for span in tokens.learned:
                spans.extend(span)
        return EncodedSet(
            EncodedArrays(
                tokens=np.array(ids, self._token_type),
                offsets=offsets_of(lengths),
                spans=np.array(spans, np.int32).reshape(-1, 2),
                span_offsets=offsets_of(counts),
                weights=np.array(weights, np.float32),
            )
        )

    def segments(self, example: Example) -> list[tuple[str, bool]]:
        """The text that is tokenised, in parts, and whether each is learned."""
        plan = self._plan(example)
        return [
            (segment.text.replace(BREAK, ""), segment.learned)
            for segment in self._marked((*plan.prompt, *plan.answer))
        ]

    def answer_text(self, example: Example) -> str:
        """The answer as a model that learned it says it, without what ends it."""
        text = "".join(segment.text for segment in self._plan(example).answer)
        ending = self._layout.ending
        return text.removesuffix(ending.shown).replace(BREAK, "")

    def prompt_text(self, example: Example) -> str:
        """The text that generation starts from, start token included."""
        prompt = [] if _is_text(example) else self._led(self._layout.prompt(example))
        return "".join(segment.text for segment in prompt).replace(BREAK, "")

    def _make_layout(self, data: DataSpec, wording: Wording) -> Layout:
        text = templates.layout_text(data.template)
        if text is not None:
            bos = self._tokenizer.bos_token
            start = None if bos is None else str(bos)
            return TextLayout(text, wording, self._special, data, start)
        if self.template == "chat":
            return ChatLayout(self._tokenizer, wording, self._special)
        if self.template == "chatml":
            return ChatMLLayout(wording, self._special)
        return PlainLayout(wording, self._special, data.separator)

    def _plan(self, example: Example) -> _Plan:
        if _is_text(example):
            return _Plan(example, self._start, self._text(example))
        prompt, answer = self._layout.both(example)
        return _Plan(example, self._led(prompt), answer)

    def _text(self, example: Example) -> list[Segment]:
        ending = self._special.end_of_text()
        text = self._special.disarm(example.completion)
        return [Segment(text, True), Segment(ending.shown, True, ending.token)]

    def _led(self, prompt: list[Segment]) -> list[Segment]:
        return prompt if self._layout.leads else [*self._start, *prompt]

    def _marked(self, segments: Sequence[Segment]) -> Sequence[Segment]:
        if not self._all:
            return segments
        return [segment._replace(learned=True) for segment in segments]

    def _stream(
        self,
        examples: Sequence[Example],
        on_problem: Callable[[int, RowProblem], None] | None,
    ) -> Iterator[_Tokens]:
        plans: list[_Plan] = []
        for index, example in enumerate(examples):
            try:
                plans.append(self._plan(example))
            except UnusableRow as unusable:
                if on_problem is None:
                    raise
                on_problem(index, unusable.problem)
            if len(plans) == TOKENISED_AT_ONCE:
                yield from self._tokenised(plans)
                plans = []
        yield from self._tokenised(plans)

    def _tokenised(self, plans: Sequence[_Plan]) -> Iterator[_Tokens]:
        """The plans' tokens, all from one call of the tokenizer."""
        texts = [
            text
            for plan in plans
            for part in (plan.prompt, plan.answer)
            for segment in part
            for text in _texts(segment)
        ]
        found = iter(self._token_lists(texts))
        for plan in plans:
            yield self._assemble(plan, found)

    def _assemble(self, plan: _Plan, found: Iterator[list[int]]) -> _Tokens:
        """Put an example together from the tokens of its texts, which come in order."""
        ids: list[int] = []
        learned: list[tuple[int, int]] = []
        self._extend(ids, learned, plan.prompt, found)
        prompt_length = len(ids)
        if plan.answer and not prompt_length and not _is_text(plan.example):
            raise _no_prompt(plan.example)
        self._extend(ids, learned, plan.answer, found)
        quality = plan.example.quality
        # As it will be stored.
        weight = 1.0 if quality is None else float(np.float32(quality))
        return _Tokens(ids, learned, prompt_length, weight)

    def _extend(
        self,
        ids: list[int],
        learned: list[tuple[int, int]],
        segments: Sequence[Segment],
        found: Iterator[list[int]],
    ) -> None:
        for segment in segments:
            # Nothing predicts the first token.
            start = max(len(ids), 1)
            if segment.token is not None:
                ids.append(segment.token)
            for _ in _texts(segment):
                ids += next(found)
            if (segment.learned or self._all) and len(ids) > start:
                if learned and learned[-1][1] == start:
                    start = learned.pop()[0]
                learned.append((start, len(ids)))

    def _token_lists(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            lists: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
            return lists
        backend = self._tokenizer.backend_tokenizer
        # What an earlier call of the tokenizer may have left switched on.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]


def _texts(segment: Segment) -> Sequence[str]:
    """The parts of a segment that are tokenised each by itself."""
    if segment.token is not None:
        return ()
    return [text for text in segment.text.split(BREAK) if text]


def _is_text(example: Example) -> bool:
    return len(example.turns) == 1


def _resolved(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if templates.layout_text(template) is not None:
        return template if template in templates.NAMED else "text"
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if template == "auto":
        return "chat" if has_template else "plain"
    if template == "chat" and not has_template:
        raise refusal("a tokenizer without a chat template", "auto, chatml or plain")
    return template


def _no_prompt(example: Example) -> Exception:
    where = f" ({example.where})" if example.where else ""
    return refusal(f"a prompt without a single token{where}", "a prompt or a separator with text")
