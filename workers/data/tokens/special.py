"""A tokenizer's special tokens: where an answer ends, and texts that only look like them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hpo.spec.errors import InputError

BREAK = "\udfff"
"""Stands where a text is tokenised in two parts. Half a surrogate pair, which no
text that was read holds."""


@dataclass(frozen=True)
class Ending:
    """What stands after an answer, up to the token at which generation stops."""

    text: str
    token: int
    apart: bool
    """Whether the token follows the text instead of being its end."""
    shown: str
    """The token as text."""


class SpecialTokens:
    """The special tokens of a tokenizer, as texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        texts = {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)} - {""}
        # Of two that begin alike the longer one is parsed.
        names = "|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text))))
        self._tokenizer = tokenizer
        self._any = re.compile(names or r"(?!)")
        self._begins = re.compile(rf"(?=(?:{names or '(?!)'}))(.)", re.DOTALL)

    def disarm(self, text: str) -> str:
        """The text with a BREAK inside whatever would be parsed as a special token.

        Data are text: what looks like a special token in them is spelt out in
        ordinary tokens, so that it ends no turn and opens none. (A tokenizer
        that puts a space before every text puts one after the break, too. A
        special token of a single character cannot be broken up.)
        """
        # Hardly any text has one, and to find that out is ten times as fast.
        if self._any.search(text) is None:
            return text
        return self._begins.sub(rf"\1{BREAK}", text)

    def ending(self, tail: str) -> Ending:
        """How an answer ends before which nothing but `tail` follows.

        With the last special token of the tail, or, where it has none, with
        the end-of-sequence token after it. White space at the end is left
        out: templates put it there, and nobody generates it.
        """
        ends = list(self._any.finditer(tail))
        if not ends:
            return Ending(tail.rstrip(), self.eos(), True, str(self._tokenizer.eos_token))
        last = ends[-1]
        return Ending(tail[: last.end()], self._id(last[0]), False, last[0])

    def eos(self) -> int:
        """The end-of-sequence token. Raises InputError where there is none."""
        eos = self._tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise refusal("a tokenizer without an end-of-sequence token", "one that has it")
        return eos

    def end_of_text(self) -> Ending:
        """How a text ends that no template surrounds."""
        return self.ending("")

    def start(self) -> int | None:
        """The start token, where the tokenizer sets one before every text."""
        around = list(self._tokenizer("")["input_ids"])
        bos = self._tokenizer.bos_token_id
        return bos if isinstance(bos, int) and bos in around else None

    def _id(self, text: str) -> int:
        number = self._tokenizer.convert_tokens_to_ids(text)
        assert isinstance(number, int)
        return number


def refusal(given: str, allowed: str, field: str = "template") -> InputError:
    """An error about the data section's layout."""
    return InputError(f"data.{field}: given {given}; allowed: {allowed}")
