"""The loss side of an evaluation: one transformers model, its weights changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from storage.checkpoints import CheckpointError
from workers.data.batches.loss import LossResult, check_loss, evaluation_loss
from workers.evaluation.engines.weights import Layout, read_tensors

if TYPE_CHECKING:
    from peft import PeftModel

    from workers.data.tokens.encoded import EncodedExample


class LikelihoodModel:
    """A transformers model that is loaded once and scores checkpoint after checkpoint.

    It holds the base weights, a full checkpoint, or the base weights with one
    adapter. `tensors` hands its base or full weights to another engine.
    """

    def __init__(self, path: str, dtype: str, device: torch.device) -> None:
        self._path = path
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._device = device
        self._adapted: PeftModel | None = None
        self._holds_base = True
        self.model = self._place_base()
        self.layout = Layout.of(self.model)
        check_loss(self.model, device)

    def load_full(self, files: Mapping[str, Path]) -> None:
        """Copy a verified full checkpoint over the weights, in place."""
        self.detach()
        self._holds_base = False
        self._copy(read_tensors(files))

    def load_base(self) -> None:
        """Have the base weights, bare."""
        self.detach()
        if not self._holds_base:
            self._copy(iter(self._read_base().state_dict().items()))
            self._holds_base = True

    def attach(self, directory: Path) -> None:
        """Put a verified adapter on top of the base weights.

        Raises CheckpointError when peft refuses it; the base stays usable.
        """
        from peft import PeftModel

        self.load_base()
        try:
            # The adapter takes the model's type, as it does in vLLM.
            self._adapted = PeftModel.from_pretrained(
                self.model, directory, autocast_adapter_dtype=False
            ).eval()
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            # Some layers may be wrapped already.
            self.model = self._place_base()
            raise CheckpointError(f"peft refused the adapter {directory}: {error}") from error

    def detach(self) -> None:
        """Remove the adapter, whole."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and weights without second names of tied ones; no adapter is attached."""
        state = self.model.state_dict()
        return ((name, state[name]) for name in self.layout.required)

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
        """
        return evaluation_loss(
            self.model,
            examples,
            pad_id=pad_id,
            tokens_per_batch=tokens_per_batch,
            most=most,
            device=self._device,
            on_progress=on_progress,
        )

    def _read_base(self) -> PreTrainedModel:
        """The base model on the CPU, as it lies on disk."""
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self._path, dtype=self._dtype)
        return model

    def _place_base(self) -> PreTrainedModel:
        model = self._read_base()
        # transformers' own `to` takes no quantised models and is typed for none.
        nn.Module.to(model, self._device)
        model.train(False)
        model.requires_grad_(False)
        return model

    def _copy(self, source: Iterator[tuple[str, torch.Tensor]]) -> None:
        state = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in source:
                state[name].copy_(tensor)
