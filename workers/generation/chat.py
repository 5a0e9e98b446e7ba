"""From a prompt to the tokens that the model continues."""

from __future__ import annotations

from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hpo.spec.errors import InputError
from workers.data.example import Turn
from workers.data.reading.fields import unusable
from workers.data.tokens.special import BREAK, SpecialTokens
from workers.generation.prompts import Prompt

Messages = list[dict[str, str]]


class PromptEncoder:
    """Puts prompts into the tokenizer's chat template, or one after the other as plain text.

    As in training, what looks like a special token in a prompt is text; only
    the template writes special tokens. Raises InputError where a chat
    template is asked for and there is none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Literal["auto", "chat", "plain"],
        separator: str,
    ) -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if template == "chat" and not has_template:
            raise InputError(
                "template: given chat, but the model's tokenizer has no chat template; "
                "allowed: auto or plain"
            )
        self._tokenizer = tokenizer
        self._special = SpecialTokens(tokenizer)
        self._separator = separator
        self.template = "chat" if has_template and template != "plain" else "plain"

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of system prompt and turns, up to where the response begins.

        Raises UnusableRow for turns that the chat template refuses.
        """
        if self.template == "plain":
            return self._plain(prompt)
        system = [Turn("system", prompt.system)] if prompt.system is not None else []
        try:
            text = self._render(self._messages([*system, *prompt.turns]), asking=True)
        except TemplateError as error:
            given = f"turns that the model's chat template refuses ({error})"
            allowed = "turns in the roles and order that it knows, or template: plain"
            raise unusable(prompt.origin, "wrong type", given, allowed) from error
        return self._tokens(text)

    def stop_tokens(self) -> list[int]:
        """The token that ends a turn in the chat template, besides the model's own ends.

        A base model's tokenizer may have a template whose end of turn is not
        its end of sequence.
        """
        if self.template == "plain":
            return []
        try:
            turns = [Turn("user", "a"), Turn("assistant", "b")]
            tokens = self._tokens(self._render(self._messages(turns), asking=False))
        except TemplateError:
            return []
        special = set(self._tokenizer.all_special_ids)
        return [token for token in tokens if token in special][-1:]

    def _plain(self, prompt: Prompt) -> list[int]:
        system = [prompt.system] if prompt.system is not None else []
        text = "\n\n".join([*system, *(turn.content for turn in prompt.turns)])
        start = self._special.start()
        lead = [] if start is None else [start]
        return [*lead, *self._tokens(self._special.disarm(text) + self._separator)]

    def _messages(self, turns: list[Turn]) -> Messages:
        return [
            {"role": turn.role, "content": self._special.disarm(turn.content)} for turn in turns
        ]

    def _render(self, messages: Messages, *, asking: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=asking
        )
        assert isinstance(text, str)
        return text

    def _tokens(self, text: str) -> list[int]:
        texts = [part for part in text.split(BREAK) if part]
        if not texts:
            return []
        # A chat template writes its own start tokens.
        found = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [token for tokens in found for token in tokens]
