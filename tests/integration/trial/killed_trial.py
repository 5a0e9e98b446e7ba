"""Trains one trial, attempt after attempt, each but the last killed by SIGKILL.

Reads from stdin: the folder of the model, a folder for states, a training
section, and after how many events each attempt is killed. An event is a
micro-batch, the beginning or the end of a state's writing. Every attempt is a
fork of this process, which has loaded the libraries but never trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from one_trial import training_set

from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from storage.checkpoints import CheckpointStore
from workers.trial.loop.run import TrainingRun
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

CPU = torch.device("cpu")


def attempt(request: dict[str, Any], tell: Callable[[], None]) -> str:
    """Train from the last whole state to the end; the result's hash."""
    config = TrainingConfig.model_validate(request["config"])
    store = CheckpointStore(Path(request["states"]))
    reusable = ReusableModel.load(
        ModelSpec(path=request["model"], dtype="float32"),
        device=CPU,
        needs=ModelNeeds.of([config]),
    )
    with reusable.attach(config) as attached:
        run = TrainingRun(
            attached, config, training_set(), pad_id=257, device=CPU, on_progress=tell
        )
        saved = sorted(store.addresses())
        if saved:
            run.load_state(store.open(saved[-1]).directory)
        while not run.finished:
            run.train_batch()
            tell()
            address = f"trial/state-{run.step:04d}"
            store.write(
                address, run.save_state, kind=run.kind, step=run.step, examples=run.examples_seen
            )
            tell()
        folder = Path(request["states"]) / "served"
        folder.mkdir()
        run.save_checkpoint(folder)
    # The order of names in the configuration depends on the process.
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def killed_after(events: int | None, request: dict[str, Any]) -> str | None:
    """The result of an attempt, None where it was killed after so many events."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            result = attempt(request, lambda: pipe.write(b".") and None)
            pipe.write(result.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        told = b""
        while chunk := pipe.read(1):
            told += chunk
            if told.count(b".") == events:
                # Anywhere within what comes next.
                time.sleep(random.random() * 0.02)
                os.kill(child, signal.SIGKILL)
                break
        else:
            os.waitpid(child, 0)
            return told.decode().strip(".")
    os.waitpid(child, 0)
    return None


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    killed = [killed_after(events, request) for events in request["events"]]
    print(json.dumps([killed, killed_after(None, request)]))


if __name__ == "__main__":
    main()
