"""Random states of a trial, kept apart from everybody else's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class RandomStreams:
    """Python's, numpy's and torch's global random states as one trial's own.

    Inside `with streams:` the global generators are the trial's; outside they
    are what they were. A block that ends with an exception leaves the trial's
    streams where they were at its start, so it can be repeated.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        outside = self._current()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed % 2**64)
        self._own = self._current()
        self._set(outside)

    def __enter__(self) -> RandomStreams:
        self._outside = self._current()
        self._set(self._own)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._own = self._current()
        self._set(self._outside)

    def rewind(self) -> None:
        """Inside a block: back to where the block began."""
        self._set(self._own)

    def state(self) -> dict[str, Any]:
        """The trial's streams, as tensors and plain values."""
        name, key, *rest = self._own["numpy"]
        return {**self._own, "numpy": (name, key.tolist(), *rest)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        name, key, *rest = state["numpy"]
        self._own = {**state, "numpy": (name, np.array(key, dtype=np.uint32), *rest)}

    def _current(self) -> dict[str, Any]:
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self._cuda) if self._cuda else None,
        }

    def _set(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if self._cuda and state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self._cuda)
