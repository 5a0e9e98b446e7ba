"""Tiny checkpoints of every kind, and what engines say about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpo.spec.study import EvaluationSpec, Every, ModelSpec
from storage.checkpoints import Checkpoint, CheckpointStore
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workers.evaluation.engines.engines import EvaluationEngines

Dtype = Literal["float32", "bfloat16"]

VOCABULARY = 256
MAX_NEW_TOKENS = 12
# Longer than a block of the prefix cache, which has 128 tokens on a CPU.
PROMPTS = [[(7 * row + 3 * column) % VOCABULARY for column in range(150)] for row in range(8)]
EXAMPLES = [
    EncodedExample.completion_only(
        ((5 * row + 11 * column) % VOCABULARY for column in range(12 + row)), 6
    )
    for row in range(8)
]


@dataclass
class Lab:
    """A tiny base model, and checkpoints that are made from it."""

    folder: Path
    tied: bool = True
    dtype: Dtype = "float32"
    base: Path = field(init=False)
    store: CheckpointStore = field(init=False)

    def __post_init__(self) -> None:
        self.base = self._model("base", 1)
        self.store = CheckpointStore(self.folder / "checkpoints")

    def full(self, seed: int) -> Checkpoint:
        """Random weights in the base model's shape, servable as a model of its own."""
        source = self._model(f"model-{seed}", seed)
        return self._publish(
            f"full-{seed}",
            "full",
            lambda target: shutil.copytree(source, target, dirs_exist_ok=True),
        )

    def altered(self, name: str, alter: Callable[[dict[str, Any]], None]) -> Checkpoint:
        """A full checkpoint whose dictionary of tensors was changed by `alter`."""
        from safetensors.torch import load_file, save_file

        tensors = load_file(self.base / "model.safetensors")
        alter(tensors)
        return self._publish(
            name, "full", lambda target: save_file(tensors, target / "model.safetensors")
        )

    def adapter(self, name: str, seed: int, **options: Any) -> Checkpoint:
        """A LoRA adapter with random weights."""
        import torch
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **options)
            adapted = get_peft_model(self.read_base(), config)
        return self._publish(name, "lora", adapted.save_pretrained)

    def merged(self, adapter: Checkpoint) -> Checkpoint:
        """The same weights as an adapter's, merged into a full checkpoint."""
        from peft import PeftModel

        model = PeftModel.from_pretrained(self.read_base(), adapter.directory).merge_and_unload()
        name = f"merged-{adapter.directory.name}"
        return self._publish(name, "full", lambda target: model.save_pretrained(target))

    def read_base(self) -> PreTrainedModel:
        import torch
        from transformers import AutoModelForCausalLM

        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.base, dtype=getattr(torch, self.dtype)
        )
        return model

    def engines(self, path: Path | None = None, **options: Any) -> EvaluationEngines:
        """Engines on the base model, or on another folder of the same shape."""
        from workers.evaluation.engines.engines import EvaluationEngines

        spec = ModelSpec(path=str(path or self.base), dtype=self.dtype)
        evaluation = EvaluationSpec(every=Every(batches=1), kv_cache_mib=16, max_num_seqs=8)
        chosen = {"max_model_len": 256, "lora_rank": None, "generation": True, **options}
        return EvaluationEngines.load(spec, evaluation, device="cpu", **chosen)

    def _model(self, name: str, seed: int) -> Path:
        """A model with weights so large that its answers depend on the whole prompt."""
        import torch
        from safetensors.torch import load_file, save_file

        folder = make_model(self.folder / name, tied=self.tied, dtype=self.dtype)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / "model.safetensors")
        for tensor in tensors.values():
            if tensor.ndim == 2:
                tensor.normal_(std=0.3, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def _publish(
        self, name: str, kind: Literal["full", "lora"], fill: Callable[[Path], Any]
    ) -> Checkpoint:
        self.store.write(name, fill, kind=kind, step=1, examples=1)
        return self.store.open(name)


@dataclass(frozen=True)
class Answers:
    """What engines say about the weights they hold."""

    tokens: list[tuple[int, ...]]
    texts: list[str]
    loss: float


def ask(engines: EvaluationEngines) -> Answers:
    """Generate twice, the second time on cached prefixes, and compute the loss."""
    assert engines.generation is not None
    texts = engines.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS)
    again = engines.generation.generate(PROMPTS, max_new_tokens=MAX_NEW_TOKENS)
    assert [answer.text for answer in again] == texts
    loss = engines.loss(EXAMPLES, tokens_per_batch=64).mean
    return Answers([answer.token_ids for answer in again], texts, loss)


@contextmanager
def closing(engines: EvaluationEngines) -> Iterator[EvaluationEngines]:
    try:
        yield engines
    finally:
        engines.close()
