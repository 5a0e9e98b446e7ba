"""Tokens per second of our loop against a bare one, on the same model and batches.

`python -m benchmarks.training.loop [--device D] [--steps N]` prints the table.
"""

from __future__ import annotations

import argparse
import random
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.reset import load_base
from benchmarks.training.bare import BareLoop
from benchmarks.training.flops import Utilisation
from benchmarks.training.models import Shape, dtype_for, shape_for
from benchmarks.training.timing import Pair, load, turns
from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import Batch
from workers.data.batches.feeder import Feeder
from workers.data.batches.order import make_order
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.report import StepReport
from workers.trial.loop.run import TrainingRun

METHODS: dict[str, dict[str, Any]] = {"full": {"type": "full"}, "lora": {"type": "lora"}}
BATCH, MICRO_BATCH = 16, 4
SHORTEST, LONGEST = 32, 256
TOLERANCE = 1e-3
"""Largest relative difference of two losses that come of the same work."""


@dataclass(frozen=True)
class Measured:
    """One method."""

    method: str
    pair: Pair
    tokens: int
    """Tokens of all steps, padding left out."""
    difference: float
    """Largest relative difference between the losses of the same step."""
    utilisation: str
    """Of the GPU's arithmetic, and its memory; empty on a CPU."""

    @property
    def row(self) -> str:
        """A row of the table."""
        ours, bare = (self.tokens / sum(way) for way in (self.pair.ours, self.pair.other))
        return (
            f"| {self.method} | {ours:.0f} | {bare:.0f} | {self.pair.speed:.3f} | "
            f"{self.difference:.1e} |{self.utilisation}"
        )


def compare(shape: Shape, method: str, device: torch.device, steps: int) -> Measured:
    """Take each step both ways, in turns. Raises AssertionError where losses differ."""
    config, dtype = _config(method, steps + 1), dtype_for(device)
    examples = _examples(shape.vocabulary, BATCH * (steps + 1))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hpo-benchmark-")))
        shape.write(folder, dtype)
        ours = stack.enter_context(load_base(folder, config, device, dtype).attach(config))
        start = ours.state_dict()
        used = Utilisation.of(ours, device)
        run = TrainingRun(ours, config, examples, pad_id=0, device=device)
        # The first step allocates the moments; the other way takes no memory yet.
        run.train_batch()
        used.note_memory()
        other = stack.enter_context(load_base(folder, config, device, dtype).attach(config))
        other.load_state_dict(start)
        bare = BareLoop(other.base, other.trainable, config, other.autocast_dtype)
        return _measure(method, run, bare, _batches(config, examples, device), used)


def _measure(
    method: str, run: TrainingRun, bare: BareLoop, batches: list[list[Batch]], used: Utilisation
) -> Measured:
    bare.step(batches[0])
    reports: list[StepReport] = []
    losses: list[float] = []
    remaining = iter(batches[1:])
    pair = turns(
        lambda: reports.append(run.train_batch()),
        lambda: losses.append(bare.step(next(remaining))),
        count=len(batches) - 1,
    )
    found = zip((report.loss for report in reports), losses, strict=True)
    difference = max(abs(ours - other) / other for ours, other in found)
    assert difference < TOLERANCE, "the two ways did not do the same work"
    tokens = sum(report.input_tokens for report in reports)
    return Measured(method, pair, tokens, difference, used.cells(tokens / sum(pair.ours)))


def _config(method: str, steps: int) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "method": METHODS[method],
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"type": "constant"},
            "effective_batch_size": BATCH,
            "max_batches": steps,
            "max_length": LONGEST,
            "compute": {"micro_batch": MICRO_BATCH},
        }
    )


def _examples(vocabulary: int, count: int) -> list[EncodedExample]:
    """Random tokens of uneven length, the second half learned."""
    draw = random.Random(0)
    lengths = [draw.randint(SHORTEST, LONGEST) for _ in range(count)]
    return [
        EncodedExample.completion_only(
            (draw.randrange(1, vocabulary) for _ in range(length)), length // 2
        )
        for length in lengths
    ]


def _batches(
    config: TrainingConfig, examples: list[EncodedExample], device: torch.device
) -> list[list[Batch]]:
    """The micro-batches that our loop will make, step by step."""
    steps = config.max_batches or 0
    order = make_order(config, examples, steps)
    feeder = Feeder(config, pad_id=0, device=device)
    chosen = ([examples[index] for index in order.batch(step)] for step in range(steps))
    return [list(feeder.batches(one, feeder.rows(one), MICRO_BATCH)) for one in chosen]


def table(device: torch.device, steps: int) -> list[str]:
    """Both methods as lines of Markdown."""
    shape = shape_for(device)
    rows = [compare(shape, method, device, steps).row for method in METHODS]
    return [
        f"### our loop against a bare one: {shape.name}, {steps} steps of {BATCH} examples, "
        f"micro-batch {MICRO_BATCH}",
        "",
        f"| method | ours, tokens/s | bare, tokens/s | ours / bare | losses differ by |"
        f"{Utilisation.head(device)}",
        f"|---|---:|---:|---:|---:|{Utilisation.rule(device)}",
        *rows,
        "",
        f"Steps in turns; the ratio is the median over them. {load()}",
        "",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    print("\n".join(table(torch.device(given.device), given.steps)))


if __name__ == "__main__":
    main()
