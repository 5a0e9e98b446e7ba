"""Training options that not every device has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from hpo.spec.errors import Problem
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod
from hpo.spec.training.optimizer import AdamW, BitsAndBytesAdamW


@dataclass(frozen=True)
class TrainingDevice:
    """What is known of the device that trains."""

    kind: Literal["cpu", "cuda"]
    bitsandbytes: bool = True
    """Whether the package is there; true for a device that is only stated."""
    flash_attention: bool = True
    """Whether flash-attn is there; true for a device that is only stated."""

    @staticmethod
    def here(kind: Literal["cpu", "cuda"]) -> TrainingDevice:
        """A device of this machine, with the packages that are installed."""
        return TrainingDevice(
            kind,
            bitsandbytes=find_spec("bitsandbytes") is not None,
            flash_attention=find_spec("flash_attn") is not None,
        )


def device_problems(config: TrainingConfig, device: TrainingDevice) -> Iterator[Problem]:
    """What `config` asks for and `device` has not; paths begin below `training`."""
    if device.kind == "cpu":
        yield from _on_a_cpu(config)
        return
    if not device.bitsandbytes:
        yield from _without_bitsandbytes(config)
    if not device.flash_attention and config.compute.attention == "flash_attention_2":
        yield Problem(
            "compute.attention",
            "'flash_attention_2', but the package flash-attn is not installed",
            "sdpa or eager, or install flash-attn",
        )


def _on_a_cpu(config: TrainingConfig) -> Iterator[Problem]:
    compute, optimizer = config.compute, config.optimizer
    if compute.precision == "fp16":
        yield _needs_gpu("compute.precision", "'fp16'", "bf16 or fp32")
    if compute.tf32:
        yield _needs_gpu("compute.tf32", "true", "false")
    if compute.attention == "flash_attention_2":
        yield _needs_gpu("compute.attention", "'flash_attention_2'", "sdpa or eager")
    if compute.pin_memory:
        yield _needs_gpu("compute.pin_memory", "true", "false")
    if isinstance(optimizer, BitsAndBytesAdamW):
        yield _needs_gpu("optimizer.type", repr(optimizer.type), "adamw or muon")
    if isinstance(optimizer, AdamW) and optimizer.offload > 0:
        yield _needs_gpu("optimizer.offload", f"{optimizer.offload:g}", "0")
    if isinstance(config.method, LoraMethod) and config.method.base == "4bit":
        yield _needs_gpu("method.base", "'4bit'", "model")


def _without_bitsandbytes(config: TrainingConfig) -> Iterator[Problem]:
    missing = ", but the package bitsandbytes is not installed"
    if isinstance(config.optimizer, BitsAndBytesAdamW):
        given = f"{config.optimizer.type!r}{missing}"
        yield Problem("optimizer.type", given, "adamw or muon, or install bitsandbytes")
    if isinstance(config.method, LoraMethod) and config.method.base == "4bit":
        yield Problem("method.base", f"'4bit'{missing}", "model, or install bitsandbytes")


def _needs_gpu(path: str, given: str, instead: str) -> Problem:
    return Problem(path, f"{given} on a CPU", f"{instead} on a CPU, or a GPU for devices.trial")
