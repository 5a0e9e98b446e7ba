"""Tiny checkpoints of every kind, and what engines say about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpo.spec.study import EvaluationSpec, Every, ModelSpec
from hpo.spec.tasks import Decoding
from storage.checkpoints import Checkpoint, CheckpointStore
from workers.data.tokens.encoded import EncodedExample
from workers.evaluation.engines.writing import Generated, Writing
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

        def fill(target: Path) -> None:
            # The tokenizer belongs to a model that engines can be built on.
            shutil.copytree(self.base, target, dirs_exist_ok=True)
            model.save_pretrained(target)

        return self._publish(name, "full", fill)

    def read_base(self) -> PreTrainedModel:
        return self.read(self.base)

    def read(self, folder: Path) -> PreTrainedModel:
        import torch
        from transformers import AutoModelForCausalLM

        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, self.dtype)
        )
        return model

    def spec(self, path: Path | None = None) -> ModelSpec:
        """The base model, or another folder, in this laboratory's type."""
        return ModelSpec(path=str(path or self.base), dtype=self.dtype)

    def evaluation(self, **options: Any) -> EvaluationSpec:
        """Small engines."""
        return EvaluationSpec(
            every=Every(batches=1), **{"kv_cache_mib": 16, "max_num_seqs": 8, **options}
        )

    def engines(
        self,
        path: Path | None = None,
        *,
        max_model_len: int = 256,
        lora_rank: int | None = None,
        generation: bool = True,
        **options: Any,
    ) -> EvaluationEngines:
        """Engines on the base model, or on another folder of the same shape.

        `options` are those of the study's evaluation.
        """
        from workers.evaluation.engines.engines import EvaluationEngines

        return EvaluationEngines.load(
            self.spec(path),
            self.evaluation(**options),
            device="cpu",
            max_model_len=max_model_len,
            lora_rank=lora_rank,
            generation=generation,
        )

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


def answers(
    engines: EvaluationEngines,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    **options: Any,
) -> dict[tuple[int, int], Generated]:
    """Everything that is generated, by the prompt's index and the sample's."""
    stop_token_ids = options.pop("stop_token_ids", ())
    on_progress = options.pop("on_progress", None)
    decoding = Decoding.model_validate(options)
    writing = Writing(prompts, max_new_tokens, decoding, stop_token_ids)
    found: dict[tuple[int, int], Generated] = {}

    def take(item: int, sample: int, answer: Generated) -> None:
        assert (item, sample) not in found
        found[item, sample] = answer

    engines.generate(writing, take, on_progress)
    return found


def texts_of(found: dict[tuple[int, int], Generated]) -> list[str]:
    """The texts, in the order of the prompts."""
    return [found[place].text for place in sorted(found)]


def ask(engines: EvaluationEngines) -> Answers:
    """Generate twice, the second time on cached prefixes, and compute the loss."""
    first = answers(engines)
    again = answers(engines)
    assert texts_of(again) == texts_of(first)
    loss = engines.loss(EXAMPLES, tokens_per_batch=64).mean
    ordered = [again[place] for place in sorted(again)]
    return Answers([answer.token_ids for answer in ordered], texts_of(first), loss)


def told(engines: EvaluationEngines, checkpoint: Checkpoint | None) -> Answers:
    """What engines say about a checkpoint, or the base model for None."""
    engines.load_weights(checkpoint)
    return ask(engines)


@contextmanager
def closing(engines: EvaluationEngines) -> Iterator[EvaluationEngines]:
    try:
        yield engines
    finally:
        engines.close()
