"""A model for the next trial: reset in place, or loaded from disk again.

Run as a process of its own: `python -m benchmarks.reset` prints the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM

from benchmarks.report import ratio
from hpo.spec.study import ModelSpec
from hpo.spec.training.method import FullMethod
from workers.tiny import make_model
from workers.trial.model.reusable import ReusableModel

SIZES = ((64, 2), (256, 4), (1024, 8))
"""Hidden size and layers."""
REPEATS = 5


def compare(hidden_size: int, layers: int) -> str:
    """One row: medians of our reset, its check included, and of a load from cached files."""
    with tempfile.TemporaryDirectory(prefix="hpo-reset-") as folder:
        make_model(Path(folder), hidden_size=hidden_size, layers=layers)
        spec = ModelSpec(path=folder, dtype="float32")
        model = ReusableModel.load(spec, device=torch.device("cpu"), methods=["full"])
        ours = median(_seconds(lambda: _reset(model)) for _ in range(REPEATS))
        plain = median(_seconds(lambda: _load(folder)) for _ in range(REPEATS))
    millions = sum(weight.numel() for weight in model.model.parameters()) / 1e6
    return f"| {millions:.1f} M | {ours:.3f} | {plain:.3f} | {ratio(ours, plain)} |"


def _reset(model: ReusableModel) -> None:
    with model.attach(FullMethod(), seed=0):
        pass
    model.verify()


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
