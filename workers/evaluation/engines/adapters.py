"""LoRA checkpoints: verified against the base model before an engine sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.spec.errors import InputError
from storage.checkpoints import CheckpointError
from workers.evaluation.engines.weights import TensorType, summary, tensor_types

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be built for (`vllm.config.lora.MaxLoRARanks`)."""

_PREFIX = "base_model.model."
_FLOATS = {"float32", "bfloat16", "float16"}
_UNSERVED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
)


@dataclass(frozen=True)
class AdapterLayout:
    """The linear layers that an adapter may change."""

    linear: Mapping[str, tuple[int, int]]
    """Input and output features of each, by the module's name."""
    max_rank: int

    @classmethod
    def of(cls, model: PreTrainedModel, max_rank: int) -> AdapterLayout:
        """Read the linear layers off a transformers model, its output layer left out."""
        from torch import nn

        output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        linear = {
            name: (module.in_features, module.out_features)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not output
        }
        return cls(linear, max_rank)


def served_rank(rank: int) -> int:
    """The smallest rank that vLLM can be built for and that holds `rank`.

    Raises InputError for a rank beyond the largest.
    """
    for served in SERVED_RANKS:
        if rank <= served:
            return served
    raise InputError(f"LoRA rank {rank}: allowed is at most {SERVED_RANKS[-1]}")


def verify_adapter(directory: Path, layout: AdapterLayout) -> None:
    """Compare an adapter with its own configuration and with the base model.

    Raises CheckpointError when the configuration asks for what is not served,
    when the rank is too large, or when tensors are missing, unexpected, cut
    short or of a wrong shape.
    """
    config = _read_config(directory / CONFIG)
    problems = list(_unserved(config, layout.max_rank))
    if not problems:
        stored = tensor_types(directory / WEIGHTS)
        problems = list(_differences(stored, _expected(config, layout)))
    if problems:
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


def _unserved(config: Mapping[str, Any], max_rank: int) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"it is of type {config.get('peft_type')}, not LORA"
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        yield f"its rank is {rank!r}"
    elif rank > max_rank:
        yield f"its rank {rank} is above {max_rank}, the largest that the engine was built for"
    if config.get("bias", "none") != "none":
        yield f"it trains biases ({config['bias']})"
    yield from (f"it uses {name}" for name in _UNSERVED if config.get(name))


def _expected(config: Mapping[str, Any], layout: AdapterLayout) -> dict[str, tuple[int, int]]:
    """Shapes of the tensors that peft stores for this configuration."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    rank: int = config["r"]
    keys = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    targets = LoraConfig(**{key: config.get(key) for key in keys})
    shapes: dict[str, tuple[int, int]] = {}
    for name, (inputs, outputs) in layout.linear.items():
        if check_target_module_exists(targets, name):
            shapes[f"{_PREFIX}{name}.lora_A.weight"] = (rank, inputs)
            shapes[f"{_PREFIX}{name}.lora_B.weight"] = (outputs, rank)
    return shapes


def _differences(
    stored: Mapping[str, TensorType], expected: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    if not expected:
        yield "its target modules name no linear layer of the base model"
    yield from (f"{name} is missing" for name in sorted(expected.keys() - stored.keys()))
    yield from (f"{name} is not expected" for name in sorted(stored.keys() - expected.keys()))
    for name in sorted(expected.keys() & stored.keys()):
        kind = stored[name]
        if kind.shape != expected[name] or kind.dtype not in _FLOATS:
            yield f"{name} is {kind}, not {list(expected[name])}"
