"""The process environment that the engines need, set before they are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpo.spec.errors import DeviceError

_REQUIRED = {
    # The engine runs in this process: it starts in seconds instead of tens of
    # seconds, takes weights straight from memory, and dies with its owner.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
_PREFERRED = {
    # At WARNING every reload names layers without weights of their own, such
    # as a tied output layer, as failed to load.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_environment(device: str, model: str | None = None) -> None:
    """Set what vLLM reads from the environment; call once, before importing it.

    `device` is `cpu`, `cuda` or `cuda:N`. A process sees one GPU only, the
    N-th of those it was given, and knows it as `cuda`. When `model` is a local
    folder nothing is looked up on the hub.

    Raises DeviceError when there is no N-th GPU, RuntimeError when vLLM was
    imported under other settings.
    """
    required = dict(_REQUIRED)
    if device == "cpu":
        # Decoding with two OpenMP threads took up to 50 times longer.
        required["OMP_NUM_THREADS"] = "1"
    elif device.startswith("cuda:"):
        required["CUDA_VISIBLE_DEVICES"] = _visible_device(int(device.removeprefix("cuda:")))
    _refuse_late_change(required)
    if model is not None and Path(model).is_dir():
        required["HF_HUB_OFFLINE"] = "1"
    os.environ.update(required)
    for name, value in _PREFERRED.items():
        os.environ.setdefault(name, value)
    _limit_threads(device)


def _visible_device(index: int) -> str:
    """The name that CUDA knows the `index`-th visible GPU by."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(index)
    names = visible.split(",")
    if index >= len(names):
        raise DeviceError(f"device cuda:{index}: this process was given GPUs {visible}")
    return names[index]


def _refuse_late_change(required: dict[str, str]) -> None:
    if "vllm" not in sys.modules:
        return
    late = {name for name, value in required.items() if os.environ.get(name) != value}
    if late:
        raise RuntimeError(f"vLLM was imported before {', '.join(sorted(late))} could be set")


def _limit_threads(device: str) -> None:
    # OpenMP reads its variable when torch is imported. Once an engine has
    # bound the threads, the limit holds and cannot be set again.
    if device == "cpu" and "torch" in sys.modules and "vllm" not in sys.modules:
        sys.modules["torch"].set_num_threads(1)
