"""LoRA adapters come and go on top of the base weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from evaluation_lab import EXAMPLES, PROMPTS, Lab, closing, told

from hpo.spec.study import ModelSpec
from hpo.spec.tasks import Decoding
from hpo.spec.training.config import TrainingConfig
from storage.checkpoints import Checkpoint
from workers.data.batches.loss import evaluation_loss
from workers.evaluation.engines.adapters import SERVED_RANKS
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.writing import Ask, Generated, Writing, asks
from workers.tiny import make_tokenizer
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

if TYPE_CHECKING:
    from workers.evaluation.engines.generation import GenerationEngine

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=16)) as engines:
        yield engines


@pytest.fixture(scope="module")
def adapters(lab: Lab) -> list[Checkpoint]:
    return [
        lab.adapter("attention", 1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        lab.adapter("all", 2, r=16, lora_alpha=4, target_modules="all-linear"),
        lab.adapter("mlp", 3, r=1, lora_alpha=8, target_modules=["gate_proj", "down_proj"]),
        lab.adapter("scaled", 4, r=8, lora_alpha=8, target_modules=["o_proj"], use_rslora=True),
    ]


def test_adapter_equals_merged_weights(
    lab: Lab, engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    """In turn, forwards and backwards, each after a full checkpoint and after another adapter."""
    merged = [told(engines, lab.merged(adapter)) for adapter in adapters]
    base = told(engines, None)
    for adapter, wanted in [*zip(adapters, merged, strict=True)] * 2:
        said = told(engines, adapter)
        assert said.tokens == wanted.tokens
        assert said.loss == pytest.approx(wanted.loss, abs=2e-4)
        assert said.tokens != base.tokens
    assert told(engines, None) == base


def test_adapter_after_a_full_checkpoint_stands_on_the_base(
    lab: Lab, engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    before = [told(engines, adapter) for adapter in adapters]
    full = lab.full(31)
    scored = told(engines, full)
    for adapter, wanted in zip(adapters, before, strict=True):
        assert told(engines, adapter) == wanted
        assert told(engines, full) == scored


def test_the_same_adapter_scores_the_same_after_another(
    engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    first = told(engines, adapters[0])
    assert told(engines, adapters[1]) != first
    assert told(engines, adapters[0]) == first


def test_served_ranks_are_those_of_vllm() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == SERVED_RANKS


def test_several_adapters_are_answered_one_after_another_on_a_cpu(
    lab: Lab, engines: EvaluationEngines, adapters: list[Checkpoint]
) -> None:
    """Full checkpoints and merged adapters among them; each has its loss afterwards."""
    dora = lab.adapter("dora-among", 8, r=2, target_modules=["q_proj"], use_dora=True)
    checkpoints = [adapters[0], lab.full(32), dora, adapters[1]]
    wanted = [told(engines, checkpoint) for checkpoint in checkpoints]
    assert engines.most_together == 1
    assert _together(engines, checkpoints) == [one.texts for one in wanted]
    with pytest.raises(RuntimeError, match="call load_weights first"):
        engines.loss(EXAMPLES, tokens_per_batch=64)
    for checkpoint, one in zip(checkpoints, wanted, strict=True):
        engines.load_weights(checkpoint, generation=False)
        assert engines.loss(EXAMPLES, tokens_per_batch=64).mean == one.loss
    assert told(engines, checkpoints[0]) == wanted[0]


def test_an_adapter_that_the_trial_merged_is_served(lab: Lab, engines: EvaluationEngines) -> None:
    """As a full checkpoint, in a study of LoRA alone."""
    checkpoint, loss = _trained(lab.base, lab, {"rank": 4, "dora": True, "bias": "all"})
    base = told(engines, None)
    said = told(engines, checkpoint)
    assert said.loss == pytest.approx(loss, abs=1e-4)
    assert said.tokens != base.tokens
    assert told(engines, None) == base


# From here on, each has an engine of its own: one that is shut down takes vLLM's process
# groups from any other.
def test_adapters_of_a_model_that_vllm_adapts_not_are_served_merged(
    lab: Lab, tmp_path: Path
) -> None:
    folder = _gpt2(tmp_path)
    checkpoint, loss = _trained(folder, lab, {"rank": 4})
    with closing(lab.engines(folder, lora_rank=4)) as engines:
        base = told(engines, None)
        said = told(engines, checkpoint)
        assert said.loss == pytest.approx(loss, abs=1e-4)
        assert said.tokens != base.tokens
        assert told(engines, None) == base


def test_several_adapters_in_one_batch_are_kept_apart(lab: Lab, adapters: list[Checkpoint]) -> None:
    """As on a GPU. No request of the base is among them: it would be answered wrongly."""
    from workers.evaluation.engines.generation import GenerationEngine

    options = evaluation_options(
        lab.spec(), lab.evaluation(), device="cpu", max_model_len=256, max_lora_rank=16, together=3
    )
    writing = Writing(PROMPTS, 12, Decoding())
    engine = GenerationEngine(options)
    try:
        wanted = [_written(engine, writing, [adapter])[0] for adapter in adapters]
        base = _written(engine, writing, [])
        for group in ([0, 1, 2], [3, 1], [2, 0, 3]):
            found = _written(engine, writing, [adapters[index] for index in group])
            assert [found[place] for place in range(len(group))] == [wanted[at] for at in group]
        assert _written(engine, writing, []) == base
        assert base[0] not in wanted
    finally:
        engine.close()


def test_an_adapter_is_merged_where_the_engine_takes_none(
    lab: Lab, adapters: list[Checkpoint]
) -> None:
    losses = []
    with closing(lab.engines(generation=False)) as engines:
        for checkpoint in (adapters[0], lab.merged(adapters[0])):
            engines.load_weights(checkpoint)
            losses.append(engines.loss(EXAMPLES, tokens_per_batch=64))
    assert losses[0] == losses[1]


def _gpt2(folder: Path) -> Path:
    """A random GPT-2, whose linear layers are of another class, with large weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    size: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 2}
    vocabulary = make_tokenizer(folder)
    config = GPT2Config(
        **size, vocab_size=vocabulary, n_positions=256, bos_token_id=256, eos_token_id=256
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def _trained(folder: Path, lab: Lab, method: dict[str, Any]) -> tuple[Checkpoint, float]:
    """A checkpoint as the trial worker writes it, and the loss that the trial would have."""
    import torch

    config = TrainingConfig.model_validate(
        {
            "method": {"type": "lora", **method},
            "optimizer": {"learning_rate": 1e-3},
            "effective_batch_size": 1,
            "max_batches": 1,
        }
    )
    reusable = ReusableModel.load(
        ModelSpec(path=str(folder), dtype="float32"),
        device=torch.device("cpu"),
        needs=ModelNeeds.of([config]),
    )
    generator = torch.Generator().manual_seed(5)
    with reusable.attach(config) as attached, torch.no_grad():
        for _, weight in attached.trainable:
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
        loss = evaluation_loss(
            attached.module, EXAMPLES, pad_id=0, tokens_per_batch=64, device=reusable.device
        )
        assert attached.kind == "full"
        name = f"merged-{folder.name}"
        lab.store.write(name, attached.save, kind=attached.kind, step=1, examples=1)
    return lab.store.open(name), loss.mean


def _together(engines: EvaluationEngines, checkpoints: list[Checkpoint]) -> list[list[str]]:
    """The texts of each checkpoint, in the order of the prompts."""
    found: dict[tuple[int, int], str] = {}

    def take(which: int, item: int, sample: int, answer: Generated) -> None:
        assert (which, item) not in found
        found[which, item] = answer.text

    engines.generate_together(checkpoints, Writing(PROMPTS, 12, Decoding()), take)
    return [
        [found[which, item] for item in range(len(PROMPTS))] for which in range(len(checkpoints))
    ]


def _written(
    engine: GenerationEngine, writing: Writing, adapters: list[Checkpoint]
) -> dict[int, dict[int, Generated]]:
    """Answers by adapter and item; with no adapters, the base's under 0."""
    found: dict[int, dict[int, Generated]] = defaultdict(dict)

    def take(one: Ask, answer: Generated) -> None:
        found[one.checkpoint][one.item] = answer

    engine.remove_adapters()
    for adapter in adapters:
        engine.add_adapter(adapter.directory)
    every = asks(writing, window=engine.window, checkpoints=max(1, len(adapters)))
    engine.write(every, writing.decoding, (), take, None)
    return found
