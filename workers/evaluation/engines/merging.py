"""Adapters that vLLM refuses, merged into whole weights.

DoRA, trained biases, whole modules that were trained beside the adapter,
embeddings and output layers, and ranks above the engine's are merged the way
peft does it (`merge_and_unload`), in the type that the model is served in, on
a copy of the base that is read for the purpose: neither engine is touched, and
the base that they hold cannot be changed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from storage.checkpoints import CheckpointError
from workers.evaluation.engines.adapters import WEIGHTS, Adapter, compare
from workers.evaluation.engines.weights import (
    Layout,
    refuse_misfit,
    require_finite,
    tensor_types,
    tensors_of,
    type_of,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Tensors = Mapping[str, torch.Tensor]
_REFUSALS = (
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What peft raises for a configuration that it cannot follow on this model."""


class MergedWeights:
    """The weights of the base with an adapter in it, as a `WeightSource`.

    They are merged, and so verified, when this is made. Given out once, they
    are kept no longer; asked for again, they are merged again.
    """

    def __init__(
        self, adapter: Adapter, base: Callable[[], PreTrainedModel], layout: Layout
    ) -> None:
        self._merge = partial(merged_weights, adapter, base, layout)
        self._merged: Tensors | None = self._merge()

    def __call__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The merged weights, under the names of a checkpoint."""
        merged, self._merged = self._merged, None
        return iter((self._merge() if merged is None else merged).items())


def merged_weights(
    adapter: Adapter, base: Callable[[], PreTrainedModel], layout: Layout
) -> Tensors:
    """Whole weights of the base with an adapter in it.

    `base` gives a copy on the CPU, which is used up. Raises CheckpointError
    when the adapter's tensors are not those that its configuration has on this
    model, when peft cannot merge them, or when the result is no model of the
    base's shape; NotFinite for values that are not finite, before or after.
    """
    try:
        merged = _merge(adapter, base(), layout)
    except _REFUSALS as error:
        raise CheckpointError(
            f"adapter {adapter.directory} cannot be merged: {type(error).__name__}: {error}"
        ) from error
    finally:
        # The model and its adapter's layers hold references to each other.
        gc.collect()
    stored = {name: type_of(tensor) for name, tensor in merged.items()}
    refuse_misfit(adapter.directory, stored, layout)
    require_finite(adapter.directory, merged.items())
    return merged


def _merge(adapter: Adapter, base: PreTrainedModel, layout: Layout) -> Tensors:
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    _refuse_tied_ends(adapter, base, layout)
    config = PeftConfig.from_pretrained(str(adapter.directory))
    config.inference_mode = True
    adapted: PeftModel = PeftModel(base, config)
    file = adapter.directory / WEIGHTS
    expected = get_peft_model_state_dict(adapted)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    compare(adapter.directory, tensor_types(file), shapes)
    require_finite(adapter.directory, tensors_of(file))
    set_peft_model_state_dict(adapted, dict(tensors_of(file)))
    state = adapted.eval().merge_and_unload().state_dict()
    # Modules that were trained beside the adapter keep the type they are stored in.
    served = {name: getattr(torch, kind.dtype) for name, kind in layout.required.items()}
    return {name: state[name].to(served.get(name)) for name in state if name not in layout.tied}


def _refuse_tied_ends(adapter: Adapter, base: PreTrainedModel, layout: Layout) -> None:
    """Refuse what makes one matrix into two.

    Embeddings and an output layer that are tied stay one matrix when they are
    served; peft merges an adapter on either into both.
    """
    if not layout.tied:
        return
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]  # type: ignore[no-untyped-call]
    names = [name for name, module in base.named_modules() if module in ends]
    saved = [
        name
        for name in names
        if any(_ends_with(name, part) for part in adapter.config.get("modules_to_save") or ())
    ]
    together = bool(adapter.config.get("ensure_weight_tying"))
    changed = [name for name in names if adapter.targets(name)] + ([] if together else saved)
    if changed:
        raise CheckpointError(
            f"adapter {adapter.directory} cannot be merged: it changes {' and '.join(changed)}, "
            f"which the base model ties to each other ({' and '.join(names)})"
        )


def _ends_with(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")
