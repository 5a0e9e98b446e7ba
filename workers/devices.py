"""From a device's name in a study to a device that is there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch

from hpo.spec.errors import DeviceError
from hpo.spec.training.devices import TrainingDevice

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Tells machines apart, and is the same in all containers of one (Linux)."""
SHARE_MARGIN = 0.02
"""Share of a GPU that a process takes besides what it claims, for its context."""


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


def device_identity(device: torch.device) -> str:
    """What a device is called by every process that uses it, and no other device is.

    A GPU by its UUID, whatever number a process knows it by; a CPU by its
    machine, whatever a container takes that to be called.
    """
    if device.type == "cuda":
        return f"gpu {torch.cuda.get_device_properties(device).uuid}"
    return f"{device.type} of {_machine()}"


def _machine() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()


def release_cached_memory(device: torch.device) -> None:
    """Finish what the device computes and give back what the allocator keeps unused."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses; 0 where nothing is shared but the host's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def memory_share(most: float, free: int, total: int) -> float:
    """Share of a GPU that may be claimed now: `most`, or what is free less a margin.

    vLLM refuses to be built when less is free than it was promised.
    """
    return max(0.0, min(most, round(free / total - SHARE_MARGIN, 4)))
