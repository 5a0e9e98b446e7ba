"""Which GPUs a process here may use, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess

from hpo.spec.errors import DeviceError
from hpo.spec.sharing import takes_turns
from hpo.spec.study import EvaluationSpec
from hpo.spec.training.devices import TrainingDevice

CONTEXTS_FRACTION = 0.05
"""Share of a GPU for the CUDA contexts of two processes, which neither's limit counts."""


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES lets through; `cuda:N` is the N-th.

    Empty where there is none.
    """
    gpus = _installed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [name for _, name in gpus]
    names: list[str] = []
    for chosen in visible.split(","):
        name = _named(chosen.strip(), gpus)
        if name is None:
            # As CUDA has it: what is not there hides all that is named after it.
            break
        names.append(name)
    return names


def _installed() -> list[tuple[str, str]]:
    """UUID and name by index."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return []
    if shown.returncode != 0:
        return []
    fields = [line.partition(",") for line in shown.stdout.strip().splitlines()]
    return [(uuid.strip(), name.strip()) for uuid, _, name in fields]


def _named(chosen: str, gpus: list[tuple[str, str]]) -> str | None:
    """Name of a GPU given by index or by the beginning of its UUID."""
    if chosen.isdecimal():
        return gpus[int(chosen)][1] if int(chosen) < len(gpus) else None
    if chosen.startswith("MIG-") and gpus:
        return chosen
    found = [name for uuid, name in gpus if chosen and uuid.startswith(chosen)]
    return found[0] if len(found) == 1 else None


def training_device(name: str) -> TrainingDevice:
    """The device of this machine that `auto`, `cpu`, `cuda` or `cuda:N` means for training."""
    return TrainingDevice.here("cpu" if gpu_index(name) is None else "cuda")


def gpu_index(device: str, *, last: bool = False) -> int | None:
    """Which visible GPU a device's name means; None for the CPU.

    `auto` is the first GPU, the last one with `last`.
    """
    if device == "auto":
        count = len(gpu_names())
        return (count - 1 if last else 0) if count else None
    return int(device.partition(":")[2] or 0) if device.startswith("cuda") else None


def trial_memory_fraction(trial: str, evaluation: str, spec: EvaluationSpec) -> float | None:
    """Share of a GPU that training may fill while both workers use it at once.

    None when they do not, having a GPU each, or the same one in turns. Raises
    DeviceError when vLLM's share leaves nothing.
    """
    shared = gpu_index(trial)
    if shared is None or shared != gpu_index(evaluation, last=True):
        return None
    if takes_turns(spec.sharing, "cuda"):
        return None
    fraction = round(1 - spec.gpu_memory_fraction - CONTEXTS_FRACTION, 4)
    if fraction <= 0:
        raise DeviceError(
            f"evaluation.gpu_memory_fraction: given {spec.gpu_memory_fraction}, which leaves "
            f"nothing for training on the same GPU, cuda:{shared}; allowed: less than "
            f"{1 - CONTEXTS_FRACTION}, another GPU for one of the workers, or evaluation.sharing "
            "turns"
        )
    return fraction
