"""From a device's name in a study to a device that is there."""

from __future__ import annotations

import torch

from hpo.spec.errors import DeviceError


def torch_device(name: str, *, last: bool = False) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this machine.

    `auto` is the first GPU, the last one with `last`, or the CPU where there
    is none. Raises DeviceError when the device is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        if count == 0:
            return torch.device("cpu")
        return torch.device("cuda", count - 1 if last else 0)
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DeviceError(f"given the device {name!r}, which is not here; allowed: auto, {there}")
    return torch.device("cuda", index)
