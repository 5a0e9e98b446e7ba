"""What the model costs between two trials, by its size, against one copy of its weights.

`python -m benchmarks.training.switch [--device D]` prints the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.reset import config_of, load_base, switch
from benchmarks.training.models import QWEN_1_5B, SIZES, Shape, dtype_for
from benchmarks.training.timing import Pair, load, turns

REPEATS = 15
METHODS = ("full", "lora")


def compare(shape: Shape, device: torch.device) -> str:
    """One row: medians of a copy, and of each method's switch as a multiple of it."""
    with tempfile.TemporaryDirectory(prefix="hpo-switch-") as name:
        folder = shape.write(Path(name), dtype_for(device))
        pairs = [_measure(folder, method, device) for method in METHODS]
    copy = median(pairs[0].other)
    cells = (f"{1000 * median(pair.ours):.1f} | {1 / pair.speed:.1f}" for pair in pairs)
    return f"| {shape.name} | {1000 * copy:.1f} | {' | '.join(cells)} |"


def _measure(folder: Path, method: str, device: torch.device) -> Pair:
    config = config_of(method)
    model = load_base(folder, config, device, dtype_for(device))
    copy = _copier([*model.model.parameters()])
    switch(model, config)
    copy()
    return turns(lambda: switch(model, config), copy, count=REPEATS)


def _copier(weights: list[torch.nn.Parameter]) -> Callable[[], None]:
    """Copies the weights from host memory to where the model is, into memory taken before."""
    pinned = weights[0].is_cuda
    sources = [torch.empty_like(weight, device="cpu", pin_memory=pinned) for weight in weights]
    targets = [torch.empty_like(weight) for weight in weights]
    for source, weight in zip(sources, weights, strict=True):
        source.copy_(weight.detach())

    @torch.no_grad()
    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source, non_blocking=True)

    return copy


def table(device: torch.device) -> list[str]:
    """All sizes as lines of Markdown."""
    sizes = (*SIZES, QWEN_1_5B) if device.type == "cuda" else SIZES
    return [
        "### the switch between trials: attach, restore, verify, against one copy of the weights",
        "",
        "| parameters | a copy, ms | full, ms | full / copy | LoRA, ms | LoRA / copy |",
        "|---:|---:|---:|---:|---:|---:|",
        *(compare(shape, device) for shape in sizes),
        "",
        f"Medians of {REPEATS} turns. {load()}",
        "",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default="cpu")
    print("\n".join(table(torch.device(parser.parse_args().device))))


if __name__ == "__main__":
    main()
