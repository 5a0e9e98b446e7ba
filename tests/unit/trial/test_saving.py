"""What a checkpoint takes on disk, and who is blamed when it cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest
import torch
from safetensors import SafetensorError

from hpo.spec.training.config import TrainingConfig
from storage.checkpoints import CheckpointStore
from workers.data.tokens.encoded import EncodedExample
from workers.faults import is_environment_fault
from workers.trial.background import Background, WantedStream
from workers.trial.loop.run import STATE_FILE, TrainingRun
from workers.trial.model.reusable import ReusableModel
from workers.trial.saving import NotWritten, Saver, checkpoint_bytes, size_of, tensors_of


@pytest.mark.parametrize(
    "method", [{"type": "full"}, {"type": "lora", "rank": 16}], ids=["full", "lora"]
)
def test_what_is_reserved_is_enough_and_hardly_more(
    reusable: ReusableModel, examples: list[EncodedExample], tmp_path: Path, method: dict[str, Any]
) -> None:
    config = TrainingConfig.model_validate(
        {
            "method": method,
            "optimizer": {"learning_rate": 1e-3},
            "effective_batch_size": 4,
            "max_batches": 2,
        }
    )
    with reusable.attach(config) as attached:
        run = TrainingRun(attached, config, examples, pad_id=257, device=torch.device("cpu"))
        run.train_batch()
        reserved = checkpoint_bytes(attached)
        run.save_checkpoint(tmp_path)
        written = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert written <= reserved <= 1.2 * written + (1 << 16)
        state = run.state()
        torch.save(state, tmp_path / STATE_FILE)
        written = (tmp_path / STATE_FILE).stat().st_size
        assert written <= size_of(tensors_of(state)) <= 1.2 * written + (1 << 16)


def test_weights_that_cannot_be_written_are_no_fault_of_the_trial(tmp_path: Path) -> None:
    def full_disk(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    store = CheckpointStore(tmp_path)
    checkpoints = SimpleNamespace(disk_budget_gib=None)
    session: Any = SimpleNamespace(checkpoints=store, spec=SimpleNamespace(checkpoints=checkpoints))
    lease: Any = SimpleNamespace(number=0, fence=1)
    run: Any = SimpleNamespace(step=1, examples_seen=4, kind="full", save_checkpoint=full_disk)
    evaluations: Any = SimpleNamespace(wanted=lambda step: True)
    with Background() as background:
        saver = Saver(session, lease, run, evaluations, background, 100, None, 0)
        with pytest.raises(NotWritten, match="No space left") as caught:
            saver.save(evaluate=True, rung=None, state=False)
    assert is_environment_fault(caught.value)
    assert store.stored() == []


class FullDisk(Background):
    """Writes onto a disk with little room."""

    def stream(self, file: IO[bytes]) -> IO[bytes]:
        class Full(WantedStream):
            def write(self, data: Any) -> int:
                if file.tell() > 1 << 16:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        return cast(IO[bytes], Full(file, self.require_wanted))


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_a_state_that_cannot_be_written_says_what_the_disk_said(tmp_path: Path, size: int) -> None:
    store = CheckpointStore(tmp_path)
    checkpoints = SimpleNamespace(disk_budget_gib=None)
    session: Any = SimpleNamespace(checkpoints=store, spec=SimpleNamespace(checkpoints=checkpoints))
    lease: Any = SimpleNamespace(number=0, fence=1)
    state = {"weights": torch.zeros(size)}
    run: Any = SimpleNamespace(step=1, examples_seen=4, kind="full", state=lambda: state)
    with FullDisk() as background:
        saver = Saver(session, lease, run, cast(Any, None), background, 100, None, 0)
        saver.save(evaluate=False, rung=None, state=True)
        with pytest.raises(NotWritten, match=r"training_state\.pt: No space left on device; make "):
            background.wait()
    assert store.stored() == []
