"""Our loss against a bare transformers loop with padding, on vLLM's tensors and on a copy.

`python -m benchmarks.evaluation.loss [GSM8K] [--turns N]` prints the table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.scenes import (
    HALF_MILLION,
    TWENTY_MILLION,
    Scene,
    checkpoints_folder,
    read_sets,
    read_spec,
)
from benchmarks.evaluation.turns import Way, alternate
from hpo.spec.study import StudySpec
from storage.checkpoints import CheckpointStore
from workers.data.batches.collate import IGNORED
from workers.data.tokens.encoded import EncodedExample
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.environment import prepare_environment
from workers.evaluation.sets import EvaluationSets

TURNS = 7
BATCH = 8
TOLERANCE = 1e-6
"""Largest relative difference of two losses that come of the same work."""
SCENES = (
    Scene("loss-tiny", HALF_MILLION, "full", "exact", 256, 16, 1, 4),
    Scene("loss-larger", TWENTY_MILLION, "full", "exact", 48, 16, 1, 1),
)
NOTES = f"""\
Ours sorts the examples by length, batches them by padded tokens (`evaluation.tokens_per_batch`), \
and computes logits only where a token counts; on views it reads vLLM's own tensors, on a copy a \
model of its own. Bare is `AutoModelForCausalLM` in a loop over a `DataLoader` with batches of \
{BATCH} in the order of the file, padded to the longest, with `model(**batch).logits` and the sum \
of `cross_entropy` over the labels that are not {IGNORED}. All have the same checkpoint and tokens \
that were made before, float32, and take turns in one process. The ratios are medians over the \
turns: above 1 ours is faster."""


@dataclass
class Ours:
    """The loss of our engines."""

    engines: EvaluationEngines
    examples: Sequence[EncodedExample]
    tokens_per_batch: int
    found: float = 0.0

    def compute(self) -> None:
        """Over the whole set."""
        self.found = self.engines.loss(
            self.examples, tokens_per_batch=self.tokens_per_batch
        ).mean


class Bare:
    """A loop as one writes it."""

    def __init__(self, folder: Path, examples: Sequence[EncodedExample]) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._batches: DataLoader[Any] = DataLoader(
            [_row(example) for example in examples],  # type: ignore[arg-type]
            batch_size=BATCH,
            collate_fn=_padded,
        )
        self.found = 0.0

    @torch.no_grad()
    def compute(self) -> None:
        """Over the whole set."""
        total, tokens = 0.0, 0
        for batch in self._batches:
            labels = batch.pop("labels")[:, 1:]
            logits = self._model(**batch).logits[:, :-1]
            total += cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            tokens += int((labels != IGNORED).sum())
        self.found = total / tokens


def _row(example: EncodedExample) -> dict[str, torch.Tensor]:
    """Tokens, and labels that are ignored where nothing is learned."""
    ids = torch.tensor(list(example.input_ids))
    labels = torch.full_like(ids, IGNORED)
    for start, end in example.counted_spans:
        labels[start:end] = ids[start:end]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }
