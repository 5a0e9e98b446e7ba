"""Putting a model back as it was: its structure and its values.

`Structure` remembers what hangs on every module (submodules, parameters,
hooks, mode, attributes) and on the configuration; `Values` remembers the
content of the tensors. Neither knows what a trial does to the model. A
`Pristine` is a model with both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from workers.trial.failures import BaseModelChanged
from workers.trial.model.fingerprint import fingerprint


class Pristine:
    """A frozen model in evaluation mode, and what it takes to have it so again."""

    def __init__(self, model: PreTrainedModel, *, written: bool) -> None:
        """`written` says that a trial may change the content of the parameters."""
        self.model: PreTrainedModel = model.requires_grad_(False).train(False)
        self._structure = Structure(model)
        own = [*model.parameters()] if written else []
        self._values = Values([*own, *model.buffers()])
        self._fingerprint = fingerprint(model)

    def restore(self) -> None:
        """Bring structure and values back."""
        self._structure.restore()
        self._values.restore()

    def verify(self) -> None:
        """Raise BaseModelChanged unless the content is as it was at first."""
        if fingerprint(self.model) != self._fingerprint:
            raise BaseModelChanged("the base model is not what was loaded; restart the worker")


class Structure:
    """Everything that hangs on a model, without the content of its tensors.

    Restoring brings back the very objects: replaced submodules and parameters,
    each parameter's `requires_grad`, hooks, train or eval mode, overridden
    methods, attributes, entries of the configuration. Gradients are dropped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._objects = [_Attributes(part) for part in (*model.modules(), *_configurations(model))]
        self._requires_grad = [
            (parameter, parameter.requires_grad) for parameter in model.parameters()
        ]

    def restore(self) -> None:
        """Put everything back."""
        for attributes in self._objects:
            attributes.restore()
        for parameter, requires_grad in self._requires_grad:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


class Values:
    """Copies of tensors in host memory, to be copied back in place.

    On a GPU the copies are pinned: they take as much host memory as the
    tensors take on the device, and none of the device's.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._pairs = [(tensor, _host_copy(tensor)) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Copy every value back into its tensor."""
        for tensor, copy in self._pairs:
            tensor.copy_(copy, non_blocking=True)


class _Attributes:
    """The attributes of one object, and the content of those that are collections."""

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._attributes = dict(vars(owner))
        self._collections = [
            (value, value.copy())
            for value in self._attributes.values()
            if isinstance(value, (dict, list, set))
        ]

    def restore(self) -> None:
        own = vars(self._owner)
        own.clear()
        own.update(self._attributes)
        for collection, content in self._collections:
            collection.clear()
            _fill(collection, content)


def _fill(collection: dict[Any, Any] | list[Any] | set[Any], content: Any) -> None:
    if isinstance(collection, list):
        collection.extend(content)
    else:
        collection.update(content)


def _configurations(model: nn.Module) -> list[object]:
    """The configuration objects of a model, each once."""
    found = [getattr(model, name, None) for name in ("config", "generation_config")]
    text = getattr(found[0], "get_text_config", None)
    if text is not None:
        found.append(text())
    return list({id(part): part for part in found if part is not None}.values())


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor.detach())
