"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from hpo.spec.training.regularisation import Ema


class Averages:
    """average ← decay · average + (1 - decay) · weight, after each optimizer step.

    It begins at the weights of the first `update`. Averages are float32, on the
    device of their weights, and cost 4 bytes per weight. While they are applied
    the raw weights are kept beside them, in the room that gradients leave then.
    """

    def __init__(self, spec: Ema, trainable: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._decay = spec.decay
        # A tied weight may come under two names; it is averaged once.
        once: dict[int, tuple[str, torch.Tensor]] = {}
        for name, weight in trainable:
            once.setdefault(id(weight), (name, weight))
        self._names = [name for name, _ in once.values()]
        self._weights = [weight for _, weight in once.values()]
        self._averages: list[torch.Tensor] = []

    @property
    def started(self) -> bool:
        """Whether there are averages."""
        return bool(self._averages)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the averages."""
        share = 1 - self._decay
        if not self.started:
            self._averages = [_float_copy(weight) for weight in self._weights]
        elif all(weight.dtype is torch.float32 for weight in self._weights):
            torch._foreach_lerp_(self._averages, self._weights, share)
        else:
            # One by one, so that no second copy of all is made in float32.
            for average, weight in zip(self._averages, self._weights, strict=True):
                average.lerp_(weight.float(), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the weights are the averages; after it what they were, to the bit.

        Nothing changes before the averages have started.
        """
        if not self.started:
            yield
            return
        raw = [weight.detach().clone() for weight in self._weights]
        try:
            self._put(self._averages)
            yield
        finally:
            self._put(raw)

    def state(self) -> dict[str, torch.Tensor]:
        """The averages by name, as copies in host memory; empty before they have started."""
        names = self._names if self.started else []
        copies = (average.to("cpu", copy=True) for average in self._averages)
        return dict(zip(names, copies, strict=True))

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave.

        Raises ValueError when it is of other weights.
        """
        if state and list(state) != self._names:
            raise ValueError("the saved averages are those of another model or method")
        self._averages = [
            state[name].to(weight.device, copy=True)
            for name, weight in zip(self._names, self._weights, strict=True)
            if state
        ]

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        torch._foreach_copy_(self._weights, values)


def _float_copy(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to(torch.float32, copy=True)
