"""The loss side of an evaluation: one transformers model, its weights changed in place.

`LikelihoodModel` has weights of its own, `LikelihoodViews` reads vLLM's. What
loads weights exists where they are the model's own, and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from storage.checkpoints import CheckpointError
from workers.data.batches.by_length import MemoryLimit
from workers.data.batches.loss import LossResult, check_loss, evaluation_loss
from workers.evaluation.engines.views import (
    Views,
    put_views,
    require_equal,
    samples_of,
    views_of,
)
from workers.evaluation.engines.weights import Layout

if TYPE_CHECKING:
    from peft import PeftModel

    from workers.data.tokens.encoded import EncodedExample


class Likelihood(ABC):
    """A transformers model that is built once and scores checkpoint after checkpoint."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        self.model = model
        self.layout = Layout.of(model)
        self._device = device
        self._adapted: PeftModel | None = None
        self._limit = MemoryLimit()
        check_loss(model, device)

    def attach(self, directory: Path) -> None:
        """Put a verified adapter on top of the base weights.

        Raises CheckpointError when peft refuses it; the base stays usable.
        """
        from peft import PeftModel

        self.detach()
        self._have_base()
        try:
            # The adapter takes the model's type, as it does in vLLM.
            self._adapted = PeftModel.from_pretrained(
                self.model, directory, autocast_adapter_dtype=False
            ).eval()
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            # Some layers may be wrapped already.
            self.model = self._bare_base()
            raise CheckpointError(f"peft refused the adapter {directory}: {error}") from error

    def detach(self) -> None:
        """Remove the adapter, whole."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None

    def loss(
        self,
        examples: Sequence[EncodedExample],
        *,
        pad_id: int,
        tokens_per_batch: int,
        most: int | None = None,
        on_progress: Callable[[], None] | None = None,
    ) -> LossResult:
        """Summed cross-entropy over the completion tokens of all examples.

        `most` are the examples of one forward pass, where that is limited.
        Where memory runs out passes become smaller, and stay so.

        Raises InputError when one example alone does not fit.
        """
        return evaluation_loss(
            self.model,
            examples,
            pad_id=pad_id,
            tokens_per_batch=tokens_per_batch,
            most=most,
            device=self._device,
            limit=self._limit,
            on_progress=on_progress,
        )

    @abstractmethod
    def _have_base(self) -> None:
        """Make sure that the base weights are held, whatever was held before."""

    @abstractmethod
    def _bare_base(self) -> PreTrainedModel:
        """A new model on the base weights."""


class LikelihoodModel(Likelihood):
    """A copy of its own: the base weights, with an adapter or without, or other whole weights."""

    def __init__(self, path: str, dtype: str, device: torch.device) -> None:
        self._path = path
        self._dtype = dtype
        self._holds_base = True
        super().__init__(_placed(read_model(path, dtype), device), device)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy verified whole weights over those that are held, in place."""
        self.detach()
        self._holds_base = False
        self._copy(weights)

    def load_base(self) -> None:
        """Have the base weights, bare."""
        self.detach()
        self._have_base()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and weights without second names of tied ones; no adapter is attached."""
        state = self.model.state_dict()
        return ((name, state[name]) for name in self.layout.required)

    def _have_base(self) -> None:
        if not self._holds_base:
            self._copy(read_model(self._path, self._dtype).state_dict().items())
            self._holds_base = True

    def _bare_base(self) -> PreTrainedModel:
        return _placed(read_model(self._path, self._dtype), self._device)

    def _copy(self, source: Iterable[tuple[str, torch.Tensor]]) -> None:
        state = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in source:
                state[name].copy_(tensor)


class LikelihoodViews(Likelihood):
    """Views of a vLLM model's weights: whatever is loaded there is scored here.

    `engine` is vLLM's own model, on the base weights, built in `plain_weights`;
    so is every reload. Raises NotPlain when its tensors are not those of the
    transformers model, all of which are compared with the model's files.
    """

    def __init__(self, path: str, dtype: str, engine: nn.Module) -> None:
        self._path = path
        self._dtype = dtype
        base = read_model(path, dtype)
        self._views = views_of(engine, base)
        require_equal(self._views, base)
        self._base = samples_of(self._views)
        device = next(iter(self._views.values())).device
        super().__init__(_viewing(base, self._views, device), device)

    def follow(self, engine: nn.Module) -> None:
        """Read the tensors of vLLM's model, after a reload or of one that was built anew.

        Nothing happens where they are those that are read. Raises NotPlain.
        """
        self.detach()
        views = views_of(engine, self.model)
        if any(view.data_ptr() != self._address(name) for name, view in views.items()):
            put_views(self.model, views)
        self._views = views

    def release(self) -> None:
        """Read nothing until `follow`, so that vLLM's tensors can be freed."""
        self.detach()
        put_views(self.model, {name: view.to("meta") for name, view in self._views.items()})
        self._views = {}

    def _address(self, name: str) -> int | None:
        view = self._views.get(name)
        return None if view is None else view.data_ptr()

    def _have_base(self) -> None:
        if not torch.equal(samples_of(self._views), self._base):
            raise RuntimeError("vLLM does not hold the base weights: reload them there first")

    def _bare_base(self) -> PreTrainedModel:
        return _viewing(read_model(self._path, self._dtype), self._views, self._device)


def read_model(path: str, dtype: str) -> PreTrainedModel:
    """The base model on the CPU, as it lies on disk."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    return model


def _viewing(model: PreTrainedModel, views: Views, device: torch.device) -> PreTrainedModel:
    put_views(model, views)
    # Only the buffers are elsewhere.
    return _placed(model, device)


def _placed(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    # transformers' own `to` takes no quantised models and is typed for none.
    nn.Module.to(model, device)
    model.train(False)
    model.requires_grad_(False)
    return model
