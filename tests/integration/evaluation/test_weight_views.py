"""A transformers model that reads vLLM's own tensors, through reloads, adapters and rebuilding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from evaluation_lab import EXAMPLES, MAX_NEW_TOKENS, PROMPTS

from hpo.spec.study import EvaluationSpec, Every, ModelSpec
from hpo.spec.tasks import Decoding
from storage.checkpoints import CheckpointError
from workers.data.batches.loss import LossResult
from workers.evaluation.engines.likelihood import (
    Likelihood,
    LikelihoodModel,
    LikelihoodViews,
    read_model,
)
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.views import NotPlain, plain_weights
from workers.evaluation.engines.weights import tensors_of
from workers.evaluation.engines.writing import Ask, Generated, Writing, asks
from workers.tiny import make_tokenizer

if TYPE_CHECKING:
    from workers.evaluation.engines.generation import GenerationEngine

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Family:
    """Models of one architecture, with weights so large that every token counts."""

    folder: Path
    architecture: Literal["llama", "mistral", "qwen2"]
    tied: bool
    lora: bool
    dtype: Literal["float32", "bfloat16"] = "float32"

    def model(self, seed: int) -> Path:
        """One of them, with a tokenizer beside it; 0 is the base."""
        folder = self.folder / f"model-{seed}"
        if not folder.exists():
            folder.mkdir(parents=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._make(make_tokenizer(folder)).save_pretrained(folder)
        return folder

    def adapter(self, seed: int) -> Path:
        """A random adapter for the base."""
        from peft import LoraConfig, get_peft_model

        folder = self.folder / f"adapter-{seed}"
        config = LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = get_peft_model(read_model(str(self.model(0)), self.dtype), config)
        adapted.save_pretrained(str(folder))
        return folder

    def engine(self, *, plain: bool = True) -> GenerationEngine:
        """vLLM on the base."""
        from workers.evaluation.engines.generation import GenerationEngine

        options = evaluation_options(
            ModelSpec(path=str(self.model(0)), dtype=self.dtype),
            EvaluationSpec(every=Every(batches=1), kv_cache_mib=16, max_num_seqs=8),
            device="cpu",
            max_model_len=256,
            max_lora_rank=8 if self.lora else None,
        )
        return GenerationEngine(options, loading=plain_weights if plain else nullcontext)

    def views(self, engine: GenerationEngine) -> LikelihoodViews:
        return LikelihoodViews(str(self.model(0)), self.dtype, engine.module)

    def copy(self, seed: int = 0) -> LikelihoodModel:
        """A model that was freshly loaded from the files."""
        return LikelihoodModel(str(self.model(seed)), self.dtype, CPU)

    def _make(self, vocabulary: int) -> Any:
        from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

        sizes: dict[str, Any] = {
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": vocabulary - 2,
            "pad_token_id": vocabulary - 1,
            "initializer_range": 0.3,
        }
        configs: Any = {
            # Biases wherever there may be some.
            "llama": lambda: LlamaConfig(
                **sizes,
                attention_bias=self.dtype == "float32",
                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            ),
            "mistral": lambda: MistralConfig(**sizes, sliding_window=8),
            "qwen2": lambda: Qwen2Config(**sizes),
        }
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            configs[self.architecture]()
        )
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(std=0.3)
        return model.to(getattr(torch, self.dtype))


@contextmanager
def closing(engine: GenerationEngine) -> Iterator[GenerationEngine]:
    try:
        yield engine
    finally:
        engine.close()


def loss_of(likelihood: Likelihood) -> LossResult:
    return likelihood.loss(EXAMPLES, pad_id=0, tokens_per_batch=64)


def answers_of(engine: GenerationEngine) -> dict[int, tuple[int, ...]]:
    writing = Writing(PROMPTS, MAX_NEW_TOKENS, Decoding())
    found: dict[int, tuple[int, ...]] = {}

    def take(ask: Ask, answer: Generated) -> None:
        found[ask.item] = answer.token_ids

    engine.write(asks(writing, window=256), writing.decoding, (), take, None)
    return found


def addresses(likelihood: Likelihood) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in likelihood.model.named_parameters()}


def reload(engine: GenerationEngine, folder: Path) -> None:
    engine.reload(lambda: tensors_of(folder / "model.safetensors"), base=False)


@pytest.mark.parametrize(
    ("architecture", "tied", "lora", "dtype"),
    [
        ("qwen2", True, True, "float32"),
        ("llama", False, False, "float32"),
        ("mistral", True, False, "bfloat16"),
        pytest.param("mistral", True, False, "float32", marks=pytest.mark.exhaustive),
        pytest.param("llama", True, True, "bfloat16", marks=pytest.mark.exhaustive),
        pytest.param("qwen2", False, True, "float32", marks=pytest.mark.exhaustive),
        pytest.param("qwen2", True, False, "float32", marks=pytest.mark.exhaustive),
        pytest.param("llama", True, True, "float32", marks=pytest.mark.exhaustive),
        pytest.param("mistral", False, True, "float32", marks=pytest.mark.exhaustive),
        pytest.param("mistral", False, False, "bfloat16", marks=pytest.mark.exhaustive),
    ],
)
def test_views_score_as_a_fresh_model_does(
    tmp_path: Path, architecture: Any, tied: bool, lora: bool, dtype: Any
) -> None:
    family = Family(tmp_path, architecture, tied, lora, dtype)
    adapters = [family.adapter(seed) for seed in (7, 8)]
    with closing(family.engine()) as engine:
        views = family.views(engine)
        where = addresses(views)
        for seed in (0, 1, 2, 1):
            if seed:
                reload(engine, family.model(seed))
            # In place: nothing is copied, nothing has to be followed.
            assert loss_of(views) == loss_of(family.copy(seed))
        with pytest.raises(RuntimeError, match="does not hold the base weights"):
            views.attach(adapters[0])
        engine.reload_base(None)
        held = [parameter.clone() for parameter in engine.module.parameters()]
        for adapter in adapters:
            if lora:
                engine.add_adapter(adapter)
            views.follow(engine.module)
            views.attach(adapter)
            copy = family.copy()
            copy.attach(adapter)
            assert loss_of(views) == loss_of(copy)
            views.detach()
            engine.remove_adapters()
        assert loss_of(views) == loss_of(family.copy())
        assert addresses(views) == where
        for kept, parameter in zip(held, engine.module.parameters(), strict=True):
            assert torch.equal(kept, parameter)


def test_plain_weights_change_no_answer(tmp_path: Path) -> None:
    family = Family(tmp_path, "qwen2", tied=True, lora=False)
    told = []
    for plain in (False, True):
        with closing(family.engine(plain=plain)) as engine:
            base = answers_of(engine)
            reload(engine, family.model(1))
            told.append((base, answers_of(engine)))
            if not plain:
                # vLLM keeps packed weights alone on a CPU.
                with pytest.raises(NotPlain, match=r"vLLM keeps .*_proj.weight as .* \[0\]"):
                    family.views(engine)
    assert told[0] == told[1]
    assert told[0][0] != told[0][1]


def test_a_new_engine_is_followed(tmp_path: Path) -> None:
    family = Family(tmp_path, "qwen2", tied=False, lora=False)
    with closing(family.engine()) as engine:
        views = family.views(engine)
        wanted = loss_of(views)
        reload(engine, family.model(1))
        views.release()
        assert all(parameter.is_meta for parameter in views.model.parameters())
        engine.rebuild()
        views.follow(engine.module)
        assert loss_of(views) == wanted
        refuse_an_adapter(family, views)
        assert loss_of(views) == wanted
        reload(engine, family.model(1))
        assert loss_of(views) == loss_of(family.copy(1))


def refuse_an_adapter(family: Family, views: LikelihoodViews) -> None:
    """Attach an adapter whose tensors are not those of its configuration."""
    adapter = family.adapter(7)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 5'))
    where = addresses(views)
    with pytest.raises(CheckpointError, match="peft refused the adapter"):
        views.attach(adapter)
    assert addresses(views) == where
