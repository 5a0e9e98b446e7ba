"""Memory that runs out where no smaller micro-batch would help, or where one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import DoesNotFit
from workers.trial.loop import averages, gradients, run
from workers.trial.loop.objective.objective import StepObjective
from workers.trial.loop.run import TrainingRun
from workers.trial.memory import is_out_of_memory
from workers.trial.model import reusable as model
from workers.trial.model.attached import AttachedModel
from workers.trial.model.reusable import ReusableModel

CONFIG = TrainingConfig.model_validate(
    {
        "method": {"type": "lora", "rank": 2, "dropout": 0.1},
        "optimizer": {"learning_rate": 1e-3},
        "effective_batch_size": 8,
        "max_batches": 2,
        "regularisation": {
            "ema": {"decay": 0.5},
            "gradient_noise": {"scale": 1e-4},
            "rdrop": {"alpha": 1},
        },
    }
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_memory_that_runs_out_is_recognised(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def full_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Memory runs out in one call of a function, not in those before and after it."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def limited(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise ERRORS[call % 2]
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, limited)


def train(reusable: ReusableModel, examples: list[EncodedExample], folder: Path) -> list[int]:
    """Train with a checkpoint at each step; the micro-batches."""
    sizes = []
    with reusable.attach(CONFIG) as attached:
        training = TrainingRun(attached, CONFIG, examples, pad_id=257, device=torch.device("cpu"))
        while not training.finished:
            sizes.append(training.train_batch().micro_batch)
            training.save_checkpoint(folder)
    return sizes


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        # The second of R-Drop's two passes.
        (StepObjective, "_hidden_states", 2),
        (StepObjective, "_token_losses", 1),
        (torch.Tensor, "backward", 1),
        (gradients, "get_total_norm", 1),
    ],
)
def test_a_step_without_room_is_repeated_with_a_smaller_micro_batch(
    reusable: ReusableModel,
    examples: list[EncodedExample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
) -> None:
    full_at(monkeypatch, owner, name, call)
    assert train(reusable, examples, tmp_path) == [4, 4]


@pytest.mark.parametrize(
    ("owner", "name", "call", "what"),
    [
        (model, "attach_adapter", 1, "what is trained beside the base"),
        (run, "make_optimizer", 1, "the optimizer"),
        (run, "clip_grads_with_norm_", 2, "clipping and noise"),
        (run, "add_gradient_noise", 1, "clipping and noise"),
        (torch.optim.AdamW, "step", 1, "the optimizer's moments"),
        (averages, "_float_copy", 3, "the averaged weights"),
        (averages.Averages, "_put", 1, "a checkpoint's weights"),
        (AttachedModel, "save", 2, "a checkpoint's weights"),
    ],
)
def test_what_has_no_room_at_any_micro_batch_does_not_fit(
    reusable: ReusableModel,
    examples: list[EncodedExample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    what: str,
) -> None:
    full_at(monkeypatch, owner, name, call)
    with pytest.raises(DoesNotFit, match=f"^out of memory for {what}: .*CU"):
        train(reusable, examples, tmp_path)
    reusable.verify()
    monkeypatch.undo()
    assert train(reusable, examples, tmp_path) == [8, 8]
