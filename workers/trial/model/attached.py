"""The model as one trial sees it, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from workers.trial.model.adapter import save_adapter
from workers.trial.model.needs import Kind
from workers.trial.model.served import save_merged, save_model


@dataclass(frozen=True)
class AttachedModel:
    """The model as one trial sees it."""

    kind: Kind
    """What `save` writes: whole models, or adapters."""
    module: Any
    """Callable for the loss; peft's wrapper for LoRA."""
    base: PreTrainedModel
    plain: PreTrainedModel
    """Where the base's weights are whole; `base` itself unless that is in 4 bits."""
    trainable: list[tuple[str, nn.Parameter]]
    """What the optimizer may change; float32 but for `pure-bf16`."""
    served_dtype: torch.dtype
    """Type that checkpoints are written in."""
    autocast_dtype: torch.dtype | None
    """Type to multiply in under autocast, float16 with loss scaling; None for
    the type of the weights."""

    def save(self, directory: Path) -> None:
        """Write the weights as they are served, in `served_dtype`.

        Full: `model.safetensors` with the base checkpoint's names, `config.json`
        and `generation_config.json`; an adapter is merged into it, the base
        not written. LoRA: `adapter_model.safetensors` and `adapter_config.json`
        in peft's format.
        """
        if self.kind == "lora":
            save_adapter(self.module, directory, self.served_dtype)
        elif self.module is self.base:
            save_model(self.base, directory, self.served_dtype)
        else:
            save_merged(self.base, self.plain, directory, self.served_dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the trainable weights, at full precision, in host memory."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self.trainable}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy what `state_dict` gave back into the trainable weights."""
        names = [name for name, _ in self.trainable]
        if names != list(state):
            raise ValueError("the saved weights are those of another model or method")
        for name, weight in self.trainable:
            weight.copy_(state[name])
