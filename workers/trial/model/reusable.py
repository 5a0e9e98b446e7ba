"""The base model: loaded once, lent to one trial after another.

Precision. Weights that are trained are float32 (with bfloat16 autocast unless
`model.dtype` is float32), a frozen base has `model.dtype`. Where a study
searches full fine-tuning and LoRA, the base is held in float32 and a LoRA
trial works on a copy of it in `model.dtype`, so it is the same trial as in a
study that searches LoRA alone.

Memory. Full fine-tuning keeps a float32 snapshot in host memory (4 bytes per
parameter, pinned on a GPU). LoRA alone keeps none: its base is never written.
A LoRA trial in a study that searches both holds the base twice on the device
(4 bytes and `model.dtype`'s), less than a full trial's gradients and moments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from hpo.spec.study import ModelSpec
from hpo.spec.training.method import LoraMethod, Method
from workers.data.batches.loss import check_loss
from workers.trial.failures import BaseModelChanged
from workers.trial.model.adapter import attach_adapter, save_adapter
from workers.trial.model.fingerprint import fingerprint
from workers.trial.model.loading import load_model
from workers.trial.model.pristine import Structure, Values
from workers.trial.model.served import save_model

Kind = Literal["full", "lora"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class AttachedModel:
    """The model as one trial sees it."""

    kind: Kind
    module: Any
    """Callable for the loss; peft's wrapper for LoRA."""
    base: PreTrainedModel
    trainable: list[tuple[str, nn.Parameter]]
    """What the optimizer may change, always float32."""
    served_dtype: torch.dtype
    """Type that checkpoints are written in."""

    def save(self, directory: Path) -> None:
        """Write the weights as they are served, in `served_dtype`.

        Full: `model.safetensors` with the base checkpoint's names, `config.json`
        and `generation_config.json`. LoRA: `adapter_model.safetensors` and
        `adapter_config.json` in peft's format.
        """
        if self.kind == "full":
            save_model(self.base, directory, self.served_dtype)
        else:
            save_adapter(self.module, directory, self.served_dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the trainable weights, at full precision, in host memory."""
        return {name: weight.detach().cpu().clone() for name, weight in self.trainable}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy what `state_dict` gave back into the trainable weights."""
        names = [name for name, _ in self.trainable]
        if names != list(state):
            raise ValueError("the saved weights are those of another model or method")
        for name, weight in self.trainable:
            weight.copy_(state[name])


class ReusableModel:
    """A base model that is as new after every trial."""

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, methods: Collection[Kind]
    ) -> None:
        self.model = model.requires_grad_(False).train(False)
        self.dtype = dtype
        self.methods = frozenset(methods)
        self._attached = False
        self._structure = Structure(model)
        written = [*model.parameters()] if "full" in self.methods else []
        self._values = Values([*written, *model.buffers()])
        self._fingerprint = self.fingerprint()

    @classmethod
    def load(
        cls, spec: ModelSpec, *, device: torch.device, methods: Collection[Kind]
    ) -> ReusableModel:
        """Load the model that `spec` names, for trials with the given methods.

        Raises InputError when the folder is missing, broken or incomplete.
        """
        dtype = DTYPES[spec.dtype]
        model = load_model(spec.path, torch.float32 if "full" in methods else dtype)
        model.to(device)  # type: ignore[arg-type]
        check_loss(model, device)
        return cls(model, dtype, methods)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type to train under with autocast; None for plain float32."""
        return None if self.dtype is torch.float32 else torch.bfloat16

    @contextmanager
    def attach(self, method: Method, *, seed: int) -> Iterator[AttachedModel]:
        """Lend the model to one trial and take it back as it was before.

        `seed` initialises a LoRA adapter. Raises InvalidTrial for targets that
        the model does not have.
        """
        if method.type not in self.methods:
            raise ValueError(f"method {method.type} on a model loaded for {set(self.methods)}")
        if self._attached:
            raise RuntimeError("the model is lent to a trial already")
        self._attached = True
        try:
            if isinstance(method, LoraMethod):
                yield self._attach_lora(method, seed)
            else:
                yield self._attach_full()
        finally:
            self._structure.restore()
            self._values.restore()
            self._attached = False

    def fingerprint(self) -> str:
        """Content hash of the base's parameters and buffers."""
        return fingerprint(self.model)

    def verify(self) -> None:
        """Raise BaseModelChanged unless the base is as it was loaded."""
        if self.fingerprint() != self._fingerprint:
            raise BaseModelChanged("the base model is not what was loaded; restart the worker")

    def _attach_full(self) -> AttachedModel:
        self.model.requires_grad_(True)
        self.model.train()
        return self._attachment("full", self.model)

    def _attach_lora(self, method: LoraMethod, seed: int) -> AttachedModel:
        _freeze_in(self.model, self.dtype)
        wrapped = attach_adapter(self.model, method, seed)
        wrapped.train()
        return self._attachment("lora", wrapped)

    def _attachment(self, kind: Kind, module: Any) -> AttachedModel:
        named = [pair for pair in module.named_parameters() if pair[1].requires_grad]
        return AttachedModel(kind, module, self.model, named, self.dtype)


def _freeze_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters of another type by frozen ones of `dtype`, keeping ties.

    The model's own parameters are not written; whoever holds its structure
    can bring them back.
    """
    cast: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dtype != dtype:
                if id(parameter) not in cast:
                    cast[id(parameter)] = nn.Parameter(
                        parameter.detach().to(dtype), requires_grad=False
                    )
                setattr(module, name, cast[id(parameter)])
