"""A model for the next trial: reset in place, or loaded from disk again.

Run as a process of its own: `python -m benchmarks.reset` prints the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import torch
from transformers import AutoModelForCausalLM

from benchmarks.report import ratio
from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from workers.tiny import make_model
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

SIZES = ((64, 2), (256, 4), (1024, 8))
"""Hidden size and layers."""
REPEATS = 5


def config_of(method: str) -> TrainingConfig:
    """A trial with this method, everything else as it comes."""
    optimizer = {"learning_rate": 1e-4}
    return TrainingConfig.model_validate(
        {"method": {"type": method}, "optimizer": optimizer, "effective_batch_size": 8, "epochs": 1}
    )


def load_base(
    folder: Path,
    config: TrainingConfig,
    device: torch.device,
    dtype: Literal["bfloat16", "float32"] = "float32",
) -> ReusableModel:
    """The model as a study with this trial alone would have it."""
    spec = ModelSpec(path=str(folder), dtype=dtype)
    return ReusableModel.load(spec, device=device, needs=ModelNeeds.of([config]))


def switch(model: ReusableModel, config: TrainingConfig) -> None:
    """What lies between two trials: attach, take back, verify."""
    with model.attach(config):
        pass
    model.verify()


def compare(hidden_size: int, layers: int) -> str:
    """One row: medians of our reset, its check included, and of a load from cached files."""
    config = config_of("full")
    with tempfile.TemporaryDirectory(prefix="hpo-reset-") as name:
        folder = make_model(Path(name), hidden_size=hidden_size, layers=layers)
        model = load_base(folder, config, torch.device("cpu"))
        ours = median(_seconds(lambda: switch(model, config)) for _ in range(REPEATS))
        plain = median(_seconds(lambda: _load(name)) for _ in range(REPEATS))
    millions = sum(weight.numel() for weight in model.model.parameters()) / 1e6
    return f"| {millions:.1f} M | {ours:.3f} | {plain:.3f} | {ratio(ours, plain)} |"


@torch.no_grad()
def _load(folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    # Loading maps the file; its pages are copied when the first step writes them.
    for weight in model.parameters():
        weight.add_(0)


def _seconds(action: Callable[[], None]) -> float:
    started = perf_counter()
    action()
    return perf_counter() - started


def main() -> None:
    """Print the table."""
    print("### a model for the next trial: reset in place and verified, or loaded again\n")
    print("| parameters | ours, seconds | plain, seconds | plain / ours |")
    print("|---:|---:|---:|---:|")
    for hidden_size, layers in SIZES:
        print(compare(hidden_size, layers), flush=True)


if __name__ == "__main__":
    main()
