"""From a device's name in a study to a device that is there."""

from __future__ import annotations

import os

import torch

from hpo.spec.errors import DeviceError
from hpo.spec.training.devices import TrainingDevice


def prepare_device(device: torch.device, memory_fraction: float | None) -> None:
    """Make this process a good neighbour of the evaluation worker.

    On a CPU it leaves a core free: two workers that each take every core wait
    for each other's threads and become many times slower (OMP_NUM_THREADS
    decides where it is set). On a GPU it takes at most `memory_fraction` of
    the memory, where that is given.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if memory_fraction is not None:
            torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))


def training_device(device: torch.device) -> TrainingDevice:
    """What the rules for training options need to know of a device that is here."""
    return TrainingDevice.here("cuda" if device.type == "cuda" else "cpu")


def torch_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this machine.

    `auto` is the first GPU, or the CPU where there is none. Raises
    DeviceError when the device is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        if count == 0:
            return torch.device("cpu")
        return torch.device("cuda", 0)
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DeviceError(f"given the device {name!r}, which is not here; allowed: auto, {there}")
    return torch.device("cuda", index)
