"""Forward passes over a whole set: examples of similar lengths, as many as memory has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from hpo.spec.errors import InputError
from workers.data.tokens.encoded import EncodedExample, lengths_of

T = TypeVar("T")


@dataclass
class MemoryLimit:
    """The padded tokens that memory has room for in one forward pass, as far as is known."""

    tokens: int | None = None
    """None as long as nothing was too large."""

    def within(self, asked: int) -> int:
        """Tokens of a pass for which so many are asked."""
        return asked if self.tokens is None else min(asked, self.tokens)


def run_by_length(
    function: Callable[[list[EncodedExample]], T],
    examples: Sequence[EncodedExample],
    tokens_per_batch: int,
    *,
    most: int | None = None,
    limit: MemoryLimit,
    pass_tokens: int | None = None,
) -> Iterator[tuple[list[int], T]]:
    """What `function` gives for each pass over a set, and the indices of its examples.

    Examples come from short to long, at most so many padded tokens and
    examples in one pass (one that is longer goes alone). A pass ends sooner
    where its padding would cost more than another pass, which is as much as
    `pass_tokens`. A pass that runs out
    of memory is repeated in halves, and no later one is larger: `limit`
    remembers the size. Raises InputError when one example alone has no room.
    """
    lengths = lengths_of(examples)
    order: list[int] = np.argsort(lengths, kind="stable").tolist()
    rising: list[int] = lengths[order].tolist()
    start = 0
    while start < len(order):
        tokens = limit.within(tokens_per_batch)
        end = _end_of_pass(rising, start, tokens, most, pass_tokens)
        indices = order[start:end]
        result = _attempt(function, [examples[index] for index in indices])
        if result is None:
            limit.tokens = _halved(rising[end - 1], len(indices))
            continue
        yield indices, result
        start = end


def _end_of_pass(
    rising: Sequence[int], start: int, tokens: int, most: int | None, pass_tokens: int | None
) -> int:
    last = len(rising) if most is None else min(len(rising), start + most)
    end, padding = start + 1, 0
    while end < last and (end + 1 - start) * rising[end] <= tokens:
        padding += (end - start) * (rising[end] - rising[end - 1])
        if pass_tokens is not None and padding > pass_tokens:
            break
        end += 1
    return end


def _attempt(function: Callable[[list[EncodedExample]], T], part: list[EncodedExample]) -> T | None:
    """None where memory runs out."""
    try:
        return function(part)
    except torch.OutOfMemoryError:
        pass
    # Not before the error is gone, whose traceback holds what the pass has made.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _halved(longest: int, examples: int) -> int:
    if examples == 1:
        raise InputError(
            f"an example of {longest} tokens has no room in the device's memory, even alone; lower "
            "training.max_length, or evaluation.gpu_memory_fraction where vLLM shares the device"
        )
    return longest * examples // 2
