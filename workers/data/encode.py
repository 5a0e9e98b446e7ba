"""Examples as token ids: templates, the prompt's boundary, truncation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hpo.spec.errors import InputError
from hpo.spec.study import DataSpec
from workers.data.sources import Example


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of prompt and completion; the end token is the last one."""

    input_ids: tuple[int, ...]
    prompt_length: int
    """Tokens at the start that are given, not learned."""

    @property
    def counted(self) -> int:
        """Tokens of the completion, the end token included."""
        return len(self.input_ids) - self.prompt_length


@dataclass(frozen=True)
class EncodedSet:
    """A set of examples, and what `max_length` took from it."""

    examples: list[EncodedExample]
    dropped: int
    """Examples left out, as their whole completion lay past `max_length`."""
    truncated: int
    """Examples that lost the end of their completion."""


class Encoder:
    """Turns examples into token ids by one template.

    Prompt and completion are tokenised apart, so a prompt has the same tokens
    in training and in generation.

    Raises InputError when the tokenizer lacks what the template needs.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, data: DataSpec, max_length: int | None
    ) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._separator = data.separator
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if data.template == "chat" and not has_template:
            raise _refusal("a tokenizer without a chat template", "auto or plain")
        self.template = "chat" if has_template and data.template != "plain" else "plain"
        if self.template == "plain" and tokenizer.eos_token_id is None:
            raise _refusal("a tokenizer without an end-of-sequence token", "one that has it")
        self._start = _start_tokens(tokenizer)

    def encode(self, example: Example) -> EncodedExample | None:
        """Token ids of an example, cut at `max_length`.

        None when nothing of the completion is left.
        """
        cut = _cut(self.encode_whole(example), self.max_length)
        return cut if cut.counted > 0 else None

    def encode_prompt(self, example: Example) -> list[int]:
        """Token ids that generation starts from; never cut."""
        return self._prompt_tokens(self._prompt_text(example))

    def encode_whole(self, example: Example) -> EncodedExample:
        """Token ids of an example, however long."""
        text = self._prompt_text(example)
        prompt = self._prompt_tokens(text)
        if self.template == "chat":
            completion = self._chat_completion(example, text)
        else:
            completion = [*self._tokens(example.completion), self._eos()]
        return EncodedExample((*prompt, *completion), len(prompt))

    @property
    def end_token(self) -> int:
        """The token that ends every completion; generation stops at it."""
        return self.encode_whole(Example("a", "b")).input_ids[-1]

    def _prompt_text(self, example: Example) -> str:
        if self.template == "plain":
            return example.prompt + self._separator
        return self._render([_message("user", example.prompt)], add_generation_prompt=True)

    def _prompt_tokens(self, text: str) -> list[int]:
        # A chat template writes its own start tokens.
        start = self._start if self.template == "plain" else []
        tokens = [*start, *self._tokens(text)]
        if not tokens:
            raise _refusal("a prompt without a single token", "a prompt or a separator with text")
        return tokens

    def _chat_completion(self, example: Example, prompt: str) -> list[int]:
        """Tokens of the assistant's turn up to the token that ends it."""
        turns = [_message("user", example.prompt), _message("assistant", example.completion)]
        whole = self._render(turns, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise _refusal("a chat template that rewrites the prompt once it is answered", "plain")
        tokens = self._tokens(whole[len(prompt) :])
        special = set(self._tokenizer.all_special_ids)
        ends = [index for index, token in enumerate(tokens) if token in special]
        # Templates put white space after the end of a turn; nobody generates it.
        return tokens[: ends[-1] + 1] if ends else [*tokens, self._eos()]

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise _refusal(f"a chat template that fails ({error})", "plain") from error
        assert isinstance(text, str)
        return text

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _eos(self) -> int:
        eos = self._tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise _refusal("a tokenizer without an end-of-sequence token", "one that has it")
        return eos


def encode_all(encoder: Encoder, examples: Iterable[Example]) -> EncodedSet:
    """Encode a set and count what `max_length` took from it."""
    return truncate_all(map(encoder.encode_whole, examples), encoder.max_length)


def truncate_all(examples: Iterable[EncodedExample], max_length: int | None) -> EncodedSet:
    """Cut whole encoded examples at `max_length` tokens.

    Lets trials with different lengths share one tokenised set.
    """
    kept: list[EncodedExample] = []
    dropped = truncated = 0
    for example in examples:
        cut = _cut(example, max_length)
        if cut.counted <= 0:
            dropped += 1
            continue
        truncated += cut is not example
        kept.append(cut)
    return EncodedSet(kept, dropped, truncated)


def _cut(example: EncodedExample, max_length: int | None) -> EncodedExample:
    if max_length is None or len(example.input_ids) <= max_length:
        return example
    return replace(example, input_ids=example.input_ids[:max_length])


def _start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The start token, where the tokenizer sets one before every text."""
    around: list[Any] = list(tokenizer("")["input_ids"])
    bos = tokenizer.bos_token_id
    return [bos] if isinstance(bos, int) and bos in around else []


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _refusal(given: str, allowed: str) -> InputError:
    return InputError(f"data.template: given {given}; allowed: {allowed}")
