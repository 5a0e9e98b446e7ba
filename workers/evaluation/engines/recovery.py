"""What is done when an engine breaks on weights that were verified."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from storage.checkpoints import CheckpointError

logger = logging.getLogger(__name__)


class EngineBroken(RuntimeError):
    """vLLM failed on what was verified; only a new engine can be trusted."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.out_of_memory = isinstance(error, torch.OutOfMemoryError)


class EngineUnusable(RuntimeError):
    """vLLM does not work on this device any more. No checkpoint is to blame."""


def surviving(
    action: Callable[[], None],
    rebuild: Callable[[int | None], None],
    sequences: Callable[[], int],
    prove: Callable[[], None],
) -> None:
    """Do what a broken engine may interrupt, once more on a new one.

    `action` must do all of its work again where `rebuild` came in between.
    `rebuild` is given the sequences that the new engine decodes at a time,
    None for as many as before: after a lack of memory they are half of the
    present `sequences`, as often as it takes.

    Raises CheckpointError when the second engine breaks as well; a third one
    stands ready then. Raises EngineUnusable when that one does not even serve
    the base model, which `prove` tries.
    """
    failed = False
    while failure := _attempted(action):
        fewer = sequences() // 2 if failure.out_of_memory and sequences() > 1 else None
        rebuild(fewer)
        if failed and fewer is None:
            if unproven := _attempted(prove):
                raise EngineUnusable(f"vLLM fails on the base model too: {unproven.reason}")
            raise CheckpointError(f"vLLM failed twice on verified weights: {failure.reason}")
        failed = failed or fewer is None


@dataclass(frozen=True)
class _Failure:
    """What is kept of an error; its traceback would keep the broken engine in memory."""

    reason: str
    out_of_memory: bool


def _attempted(action: Callable[[], None]) -> _Failure | None:
    try:
        action()
    except EngineBroken as error:
        # As text: whoever keeps the record keeps no frames of the engine.
        logger.warning("vLLM failed and is built anew:\n%s", traceback.format_exc())
        return _Failure(str(error), error.out_of_memory)
    return None
