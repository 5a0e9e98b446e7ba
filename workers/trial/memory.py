"""Running out of memory: what it looks like, and a trial that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.trial.failures import DoesNotFit

SIGNS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "DefaultCPUAllocator")
"""What errors say that are plain RuntimeErrors: of cuBLAS, of page-locked host
memory, of host memory."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on the device or in the host."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in SIGNS)


def in_short(error: RuntimeError) -> str:
    """The first line of an error, which may have many."""
    return str(error).partition("\n")[0]


@contextmanager
def must_fit(what: str) -> Iterator[None]:
    """Inside, running out of memory is told as DoesNotFit: there was no room for `what`.

    For what no smaller micro-batch makes smaller.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(f"out of memory for {what}: {in_short(error)}") from None
