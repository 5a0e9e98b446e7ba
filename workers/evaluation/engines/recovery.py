"""What is done when an engine breaks on weights that were verified."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from storage.checkpoints import CheckpointError

logger = logging.getLogger(__name__)


class EngineBroken(RuntimeError):
    """vLLM failed on what was verified; only a new engine can be trusted."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.out_of_memory = isinstance(error, torch.OutOfMemoryError)


def surviving(
    action: Callable[[], None], rebuild: Callable[[int | None], None], sequences: Callable[[], int]
) -> None:
    """Do what a broken engine may interrupt, once more on a new one.

    `action` must do all of its work again where `rebuild` came in between.
    `rebuild` is given the sequences that the new engine decodes at a time,
    None for as many as before: after a lack of memory they are half of the
    present `sequences`, as often as it takes.

    Raises CheckpointError when the second engine breaks as well; a third one
    stands ready then.
    """
    failed = False
    while True:
        try:
            return action()
        except EngineBroken as error:
            fewer = sequences() // 2 if error.out_of_memory and sequences() > 1 else None
            logger.warning("vLLM failed and is built anew: %s", error)
            rebuild(fewer)
            if failed and fewer is None:
                raise CheckpointError(f"vLLM failed twice on verified weights: {error}") from error
            failed = failed or fewer is None
