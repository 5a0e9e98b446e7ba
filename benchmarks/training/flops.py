"""How much of a GPU's arithmetic and memory a way of training takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.trial.model.attached import AttachedModel

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s by the makers' data sheets, by a part of the GPU's name."""


def flops_per_token(weights: int, *, full: bool) -> float:
    """FLOPs of training on one token, attention's products of positions left out.

    Forward two per weight, the gradient of the states two, that of the
    weights two (arXiv:2001.08361); a frozen base has no gradient of its own.
    """
    return (6.0 if full else 4.0) * weights


@dataclass
class Utilisation:
    """Columns of a table that only a GPU has."""

    device: torch.device
    flops: float
    """FLOPs per token."""
    memory: int = 0
    """Most bytes that were allocated."""

    @classmethod
    def of(cls, attached: AttachedModel, device: torch.device) -> Utilisation:
        """For a model as it is trained; memory counts from here on."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        weights = sum(weight.numel() for weight in attached.base.parameters())
        return cls(device, flops_per_token(weights, full=attached.module is attached.base))

    def note_memory(self) -> None:
        """Note what was taken so far."""
        if self.device.type == "cuda":
            self.memory = torch.cuda.max_memory_allocated(self.device)

    def cells(self, tokens_per_second: float) -> str:
        """The cells of a row, nothing on a CPU."""
        if self.device.type != "cuda":
            return ""
        name = torch.cuda.get_device_name(self.device)
        peak = next((flops for part, flops in PEAKS.items() if part in name), None)
        share = "unknown" if peak is None else f"{tokens_per_second * self.flops / peak:.1%}"
        return f" {share} | {self.memory / 2**30:.1f} |"

    @staticmethod
    def head(device: torch.device) -> str:
        """Their names."""
        return " of the GPU's FLOP/s | peak GiB |" if device.type == "cuda" else ""

    @staticmethod
    def rule(device: torch.device) -> str:
        """The line below the names."""
        return "---:|---:|" if device.type == "cuda" else ""
