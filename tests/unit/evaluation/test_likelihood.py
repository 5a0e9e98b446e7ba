"""A transformers model with weights of its own, through checkpoints and adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.data.batches import loss
from workers.data.batches.loss import LossResult
from workers.data.tokens.encoded import EncodedExample
from workers.evaluation.engines.likelihood import LikelihoodModel, LikelihoodViews, read_model
from workers.tiny import make_model

CPU = torch.device("cpu")
EXAMPLES = [EncodedExample.completion_only(range(length), 2) for length in (5, 9, 30, 31, 32, 33)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("base")))


@pytest.fixture
def likelihood(base: str) -> LikelihoodModel:
    return LikelihoodModel(base, "float32", CPU)


def loss_of(
    likelihood: LikelihoodModel, on_progress: Callable[[], None] | None = None
) -> LossResult:
    return likelihood.loss(EXAMPLES, pad_id=0, tokens_per_batch=256, on_progress=on_progress)


def test_weights_come_and_go(likelihood: LikelihoodModel, base: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    other = str(make_model(tmp_path / "other", seed=1))
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    get_peft_model(read_model(base, "float32"), config).save_pretrained(str(tmp_path / "adapter"))
    bare = loss_of(likelihood)
    likelihood.load(read_model(other, "float32").state_dict().items())
    loaded = loss_of(likelihood)
    assert loaded == loss_of(LikelihoodModel(other, "float32", CPU)) != bare
    # The base is read again before the adapter comes on top.
    likelihood.attach(tmp_path / "adapter")
    adapted = loss_of(likelihood)
    assert adapted != bare
    likelihood.attach(tmp_path / "adapter")
    assert loss_of(likelihood) == adapted
    likelihood.detach()
    assert loss_of(likelihood) == bare
    held = dict(likelihood.tensors())
    assert held.keys() == likelihood.layout.required.keys()
    wanted = read_model(base, "float32").state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in held.items())


def test_a_size_that_fits_is_kept_for_the_next_checkpoint(
    likelihood: LikelihoodModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, passes = loss_of(likelihood), 0
    real, full = loss.hidden_states, True

    def limited(causal: Any, batch: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if full and batch.input_ids.numel() > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(causal, batch)

    monkeypatch.setattr(loss, "hidden_states", limited)
    assert loss_of(likelihood).total == pytest.approx(wanted.total, rel=1e-6)
    first, passes, full = passes, 0, False
    assert loss_of(likelihood).total == pytest.approx(wanted.total, rel=1e-6)
    assert passes < first


def test_views_load_nothing() -> None:
    # Their weights are vLLM's business.
    for name in ("load", "load_base", "tensors"):
        assert hasattr(LikelihoodModel, name)
        assert not hasattr(LikelihoodViews, name)
