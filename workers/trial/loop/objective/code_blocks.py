"""Which tokens of an example lie within fenced code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from workers.data.tokens.encoded import EncodedExample

_OPENING = re.compile(r"^([ \t]*)(`{3,}(?=[^`\n]*$)|~{3,}).*$", re.MULTILINE)

Mask = npt.NDArray[np.bool_]


class CodeBlocks:
    """Finds code in token ids.

    Tokens are decoded one by one, so that each has a place in the text; half
    a character, as byte-level tokens may be, stands for some character that
    is no fence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).items()
        special = {index for index, token in added if token.special}
        # They are no text, and a fence may follow or precede one on its line.
        self._pieces = dict.fromkeys({*special, *tokenizer.all_special_ids}, "\n")
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:] or [0]
        self._before = self._decoded(self._anchor)

    def mask(self, example: EncodedExample) -> Mask:
        """Whether each token lies within a fenced block, bool (tokens,).

        Fences (CommonMark 0.31, section 4.5) stand at the start of a line; what
        is learned begins a line, and so does what follows a special token. The
        lines of the fences themselves are outside, and so is a token of which
        any part is. A block that is not closed runs to the end.
        """
        pieces = [self._piece(token) for token in example.tokens.tolist()]
        for start, _ in example.learned:
            # A span from 1 on begins at 0, where nothing can be learned.
            if start > 1:
                pieces[start] = "\n" + pieces[start]
        ends = [0, *accumulate(len(piece) for piece in pieces)]
        text = "".join(pieces)
        inside = np.zeros(len(text) + 1, np.int64)
        for first, last in code_spans(text):
            inside[first + 1 : last + 1] = 1
        sizes = np.diff(ends)
        whole: Mask = (np.diff(np.cumsum(inside)[ends]) == sizes) & (sizes > 0)
        return whole

    def _piece(self, token: int) -> str:
        """The text of a token in the middle of others."""
        piece = self._pieces.get(token)
        if piece is None:
            # A decoder may change the first token of a text, such as strip its space.
            both = self._decoded([*self._anchor, token])
            if both.startswith(self._before):
                piece = both[len(self._before) :]
            else:
                piece = self._decoded([token])
            self._pieces[token] = piece
        return piece

    def _decoded(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def code_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the lines between fences begin and end in a text, line ends included."""
    opening = _OPENING.search(text) if "```" in text or "~~~" in text else None
    while opening is not None:
        indent, mark = opening.groups()
        start = min(opening.end() + 1, len(text))
        # A mark that is indented further is a line of the block.
        closing = re.compile(
            rf"^[ \t]{{0,{len(indent) + 3}}}{mark}{mark[0]}*[ \t\r]*$", re.MULTILINE
        ).search(text, start)
        if closing is None:
            yield start, len(text)
            return
        yield start, closing.start()
        opening = _OPENING.search(text, closing.end())
