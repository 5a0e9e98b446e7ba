"""AdamW with a share of its moments in host memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from workers.trial.optimizer.groups import Group


class OffloadedAdamW(Optimizer):
    """AdamW whose moments are partly kept, and stepped, in host memory.

    The idea is ZeRO-Offload's (arXiv:2101.06840): gradients go to the host, new
    weights come back. The weights go to the host as well, at every step, so
    that the device's are the only ones that count: whoever writes them (reset,
    averages, resuming) need not know of the copies. On a GPU the copies are
    page-locked, and the host steps while the device does.

    The host keeps weight, gradient and two moments of each offloaded parameter.
    """

    def __init__(self, groups: Iterable[Group], share: float, **options: Any) -> None:
        """At least `share` of all elements is offloaded; `options` are AdamW's."""
        groups = list(groups)
        everything = [parameter for group in groups for parameter in group["params"]]
        host = {id(parameter) for parameter in offloaded(everything, share)}
        on_device = _only(groups, {id(parameter) for parameter in everything} - host)
        on_host = _only(groups, host)
        super().__init__([*on_device, *on_host], {})
        self._device = everything[0].device
        self._copies = [[_HostCopy(one) for one in group["params"]] for group in on_host]
        weights = [
            {**group, "params": [copy.weight for copy in copies]}
            for group, copies in zip(on_host, self._copies, strict=True)
        ]
        self._on_device = AdamW(map(dict, on_device), **options) if on_device else None
        self._on_host = AdamW(weights, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step on the device and on the host; returns the loss of `closure` where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._tell_parts()
        for copy in self._all_copies():
            copy.fetch()
        wait_for_copies = _mark(self._device)
        if self._on_device is not None:
            self._on_device.step()
        wait_for_copies()
        self._on_host.step()
        for copy in self._all_copies():
            copy.give_back()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State and groups of each part, in torch's form."""
        self._tell_parts()
        return {"parts": [part.state_dict() for part in self._parts()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; the host's share never touches the device."""
        for part, state in zip(self._parts(), state_dict["parts"], strict=True):
            part.load_state_dict(state)
        for shown, own in self._pairs():
            shown.update(_without_parameters(own))

    def _parts(self) -> list[AdamW]:
        return [part for part in (self._on_device, self._on_host) if part is not None]

    def _pairs(self) -> Iterable[tuple[Group, Group]]:
        """Each group as it is seen from outside, and as its part has it."""
        own = [group for part in self._parts() for group in part.param_groups]
        return zip(self.param_groups, own, strict=True)

    def _tell_parts(self) -> None:
        """Hand on what was set from outside, above all by a schedule."""
        for shown, own in self._pairs():
            own.update(_without_parameters(shown))

    def _all_copies(self) -> Iterable[_HostCopy]:
        return (copy for copies in self._copies for copy in copies)


class _HostCopy:
    """A parameter's weight and gradient in host memory."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self._parameter = parameter
        self._gradient = _host_memory_like(parameter)
        self.weight = _host_memory_like(parameter)

    def fetch(self) -> None:
        """Begin to copy from the device, if there is a gradient."""
        if self._parameter.grad is None:
            self.weight.grad = None
            return
        self.weight.copy_(self._parameter, non_blocking=True)
        self._gradient.copy_(self._parameter.grad, non_blocking=True)
        self.weight.grad = self._gradient

    def give_back(self) -> None:
        """Begin to copy the new weight to the device."""
        if self.weight.grad is not None:
            self._parameter.copy_(self.weight, non_blocking=True)


def offloaded(parameters: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Whole parameters that hold `share` of all elements, and little more.

    Large ones first, as long as they fit; the smallest of the rest fills up.
    """
    missing = math.ceil(share * sum(parameter.numel() for parameter in parameters))
    taken, left = [], []
    for parameter in sorted(parameters, key=torch.Tensor.numel, reverse=True):
        if parameter.numel() <= missing:
            taken.append(parameter)
            missing -= parameter.numel()
        else:
            left.append(parameter)
    return [*taken, left[-1]] if missing > 0 else taken


def _only(groups: Iterable[Group], ids: Collection[int]) -> list[Group]:
    """The groups with those of their parameters alone, without empty ones."""
    parts = (
        {**group, "params": [one for one in group["params"] if id(one) in ids]} for group in groups
    )
    return [part for part in parts if part["params"]]


def _without_parameters(group: Group) -> Group:
    return {key: value for key, value in group.items() if key != "params"}


def _host_memory_like(parameter: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(
        parameter, device="cpu", pin_memory=parameter.is_cuda, requires_grad=False
    )


def _mark(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done all that it was told up to now."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
