"""How much memory training takes, and could take."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from workers.trial.health.signs import Memory

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where a container reads its own limit (cgroup v2); a number or `max`."""


def memory_of(device: torch.device) -> Memory:
    """The memory of the device that trains.

    On a GPU the peak since this was asked last time, against what the process
    holds and what is free; elsewhere the process's resident memory, against
    that and what is available, within the container's limit.
    """
    return _on_gpu(device) if device.type == "cuda" else _in_host()


def _on_gpu(device: torch.device) -> Memory:
    used = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return Memory(used, min(torch.cuda.memory_reserved(device) + free, int(share * total)))


def _in_host() -> Memory:
    used = psutil.Process().memory_info().rss
    limit = used + psutil.virtual_memory().available
    return Memory(used, min(limit, _container_limit() or limit))


def _container_limit() -> int | None:
    try:
        text = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
