"""The largest micro-batch that fits; examples per step never change.

A row is one example, or several side by side where they are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample, lengths_of
from workers.trial.failures import DoesNotFit
from workers.trial.memory import in_short, is_out_of_memory

T = TypeVar("T")

PADDED_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Padded tokens of a micro-batch to begin with, by type of device."""


class MicroBatch:
    """Rows per forward pass, halved whenever the memory does not do."""

    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def initial(
        cls, config: TrainingConfig, examples: Sequence[EncodedExample], device: torch.device
    ) -> MicroBatch:
        """What is given, or as many of the longest rows as a device of this type should take."""
        if config.compute.micro_batch is not None:
            return cls(min(config.effective_batch_size, config.compute.micro_batch))
        tokens = PADDED_TOKENS.get(device.type, PADDED_TOKENS["cpu"])
        longest = longest_row(config, examples)
        return cls(max(1, min(config.effective_batch_size, tokens // longest)))

    def fit(self, step: Callable[[], T], reset: Callable[[], None]) -> T:
        """Run a whole step, again with half the size when memory runs out.

        `reset` takes back what an unfinished step has done. Raises DoesNotFit
        when a single row is too much.
        """
        while True:
            try:
                return step()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = in_short(error)
            # Outside the handler, whose traceback would keep the tensors alive.
            reset()
            if self.size == 1:
                raise DoesNotFit(f"out of memory at micro-batch 1: {reason}")
            self.size = (self.size + 1) // 2


def longest_row(config: TrainingConfig, examples: Sequence[EncodedExample]) -> int:
    """The most tokens of a row, padding among them."""
    filled = config.packing or config.padding == "max-length"
    return config.max_length if filled else int(lengths_of(examples).max())
