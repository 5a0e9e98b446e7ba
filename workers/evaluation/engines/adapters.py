"""LoRA checkpoints: verified against the base model before an engine sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.spec.errors import InputError
from storage.checkpoints import CheckpointError
from workers.evaluation.engines.weights import (
    TensorType,
    require_finite,
    summary,
    tensor_types,
    tensors_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be built for (`vllm.config.lora.MaxLoRARanks`)."""

_PREFIX = "base_model.model."
_FLOATS = {"float32", "bfloat16", "float16"}
_UNDERSTOOD = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
"""Keys of a configuration that vLLM heeds or that change nothing when an adapter is served."""
_LEAVE_THE_BASE = {"gaussian", "eva", "orthogonal"}
"""Initialisations by name that do not change the base weights; PiSSA and others do."""


@dataclass(frozen=True)
class AdapterLayout:
    """The layers that an adapter may change."""

    linear: Mapping[str, tuple[int, int]]
    """Input and output features of each linear layer, by the module's name."""
    ends: tuple[str, ...]
    """Names of the embeddings and of the output layer, which vLLM adapts not."""
    max_rank: int

    @classmethod
    def of(cls, model: PreTrainedModel, max_rank: int) -> AdapterLayout:
        """Read the linear layers off a transformers model, its output layer left out."""
        from torch import nn

        ends = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
        named = list(model.named_modules())
        linear = {
            name: (module.in_features, module.out_features)
            for name, module in named
            if isinstance(module, nn.Linear) and module not in ends
        }
        return cls(linear, tuple(name for name, module in named if module in ends), max_rank)


@dataclass(frozen=True)
class Adapter:
    """A LoRA checkpoint's folder with its configuration."""

    directory: Path
    config: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Adapter:
        """Read the configuration. Raises CheckpointError for one that is no LoRA's."""
        config = _read_config(directory / CONFIG)
        rank = config.get("r")
        if config.get("peft_type") != "LORA":
            problem = f"it is of type {config.get('peft_type')}, not LORA"
        elif not isinstance(rank, int) or rank < 1:
            problem = f"its rank is {rank!r}"
        else:
            return cls(directory, config)
        raise CheckpointError(f"adapter {directory} cannot be served: {problem}")

    def must_be_merged(self, layout: AdapterLayout | None) -> list[str]:
        """Why vLLM cannot serve it on top of the base; nothing where it can.

        `layout` is None where the engine serves no adapters at all.
        """
        return ["the engine takes no adapters"] if layout is None else list(self._reasons(layout))

    def verify(self, layout: AdapterLayout) -> None:
        """Compare what vLLM will be given with the configuration and the base model.

        Raises CheckpointError when tensors are missing, unexpected, cut short
        or of a wrong shape, and NotFinite.
        """
        compare(self.directory, tensor_types(self.directory / WEIGHTS), self._expected(layout))
        require_finite(self.directory, tensors_of(self.directory / WEIGHTS))

    def targets(self, name: str) -> bool:
        """Whether a layer of the base model gets an adapter, by its name."""
        from peft.tuners.tuners_utils import check_target_module_exists

        return bool(check_target_module_exists(self._targeting, name))

    def _reasons(self, layout: AdapterLayout) -> Iterator[str]:
        rank: int = self.config["r"]
        if rank > layout.max_rank:
            yield f"its rank {rank} is above {layout.max_rank}, the engine's largest"
        if self.config.get("bias", "none") != "none":
            yield f"it trains biases ({self.config['bias']})"
        start = self.config.get("init_lora_weights")
        if isinstance(start, str) and start not in _LEAVE_THE_BASE:
            yield f"it began as {start}, which changes the base weights"
        used = sorted(key for key, value in self.config.items() if value)
        yield from (f"it uses {key}" for key in used if key not in _UNDERSTOOD)
        yield from (f"it changes {name}" for name in layout.ends if self.targets(name))

    def _expected(self, layout: AdapterLayout) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that peft stores for this configuration."""
        rank: int = self.config["r"]
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (inputs, outputs) in layout.linear.items():
            if self.targets(name):
                shapes[f"{_PREFIX}{name}.lora_A.weight"] = (rank, inputs)
                shapes[f"{_PREFIX}{name}.lora_B.weight"] = (outputs, rank)
        return shapes

    @cached_property
    def _targeting(self) -> Any:
        """A peft configuration that names the same layers."""
        from peft import LoraConfig

        keys = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
        return LoraConfig(**{key: self.config.get(key) for key in keys})


def served_rank(rank: int) -> int:
    """The smallest rank that vLLM can be built for and that holds `rank`.

    Raises InputError for a rank beyond the largest.
    """
    for served in SERVED_RANKS:
        if rank <= served:
            return served
    raise InputError(f"LoRA rank {rank}: allowed is at most {SERVED_RANKS[-1]}")


def compare(
    directory: Path, stored: Mapping[str, TensorType], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare an adapter's tensors with the shapes that are expected of it.

    Raises CheckpointError.
    """
    if problems := list(_differences(stored, expected)):
        raise CheckpointError(f"adapter {directory} cannot be served: {summary(problems)}")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file {file} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"unreadable {file}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"unreadable {file}: it is no mapping")
    return config


def _differences(
    stored: Mapping[str, TensorType], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    if not expected:
        yield "its target modules name no layer of the base model"
    yield from (f"{name} is missing" for name in sorted(expected.keys() - stored.keys()))
    yield from (f"{name} is not expected" for name in sorted(stored.keys() - expected.keys()))
    for name in sorted(expected.keys() & stored.keys()):
        kind = stored[name]
        if kind.shape != expected[name] or kind.dtype not in _FLOATS:
            yield f"{name} is {kind}, not {list(expected[name])}"
