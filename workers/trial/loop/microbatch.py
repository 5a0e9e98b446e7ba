"""The largest micro-batch that fits; examples per step never change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from workers.data.tokens.encoded import EncodedExample, lengths_of
from workers.trial.failures import DoesNotFit

T = TypeVar("T")

PADDED_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Padded tokens of a micro-batch to begin with, by type of device."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; cuBLAS says so by a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


class MicroBatch:
    """Examples per forward pass, halved whenever the memory does not do."""

    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def initial(
        cls, effective: int, examples: Sequence[EncodedExample], device: torch.device
    ) -> MicroBatch:
        """As many of the longest examples as a device of this type should take."""
        longest = int(lengths_of(examples).max())
        tokens = PADDED_TOKENS.get(device.type, PADDED_TOKENS["cpu"])
        return cls(max(1, min(effective, tokens // longest)))

    def split(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """A step's examples in micro-batches, long ones together and first.

        Sorting saves padding, and what does not fit shows at once.
        """
        ordered = sorted(examples, key=lambda example: -len(example.input_ids))
        for start in range(0, len(ordered), self.size):
            yield ordered[start : start + self.size]

    def fit(self, step: Callable[[], T], reset: Callable[[], None]) -> T:
        """Run a whole step, again with half the size when memory runs out.

        `reset` takes back what an unfinished step has done. Raises DoesNotFit
        when a single example is too much.
        """
        while True:
            try:
                return step()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Outside the handler, whose traceback would keep the tensors alive.
            reset()
            if self.size == 1:
                raise DoesNotFit(f"out of memory at micro-batch 1: {reason}")
            self.size = (self.size + 1) // 2
