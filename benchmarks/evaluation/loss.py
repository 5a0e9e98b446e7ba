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
from benchmarks.evaluation.turns import HEAD, READING, RULE, Way, alternate
from hpo.spec.study import StudySpec
from storage.checkpoints import CheckpointStore
from workers.data.batches.collate import IGNORED
from workers.data.tokens.encoded import EncodedExample
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.environment import prepare_environment
from workers.evaluation.sets import EvaluationSets

TURNS = 15
BATCH = 8
MEMORIES: Sequence[Literal["views", "together"]] = ("views", "together")
NAMES = ("on views", "on a copy")
TOLERANCE = 1e-6
"""Largest relative difference of two losses that come of the same work."""
SCENES = (
    Scene("loss-tiny", HALF_MILLION, "full", "exact", 128, 16, 1, 4),
    Scene("loss-larger", TWENTY_MILLION, "full", "exact", 24, 16, 1, 1),
)
NOTES = f"""\
Ours sorts the examples by length, batches them by padded tokens (`evaluation.tokens_per_batch`), \
and computes logits only where a token counts; on views it reads vLLM's own tensors, on a copy a \
model of its own. Bare is `AutoModelForCausalLM` in a loop over a `DataLoader` with batches of \
{BATCH} in the order of the file, padded to the longest, with `model(**batch).logits` and the sum \
of `cross_entropy` over the labels that are not {IGNORED}. All have the same checkpoint and tokens \
that were made before, float32, and take turns in one process. \
{READING}"""


@dataclass
class Ours:
    """The loss of our engines."""

    engines: EvaluationEngines
    examples: Sequence[EncodedExample]
    tokens_per_batch: int
    found: float = 0.0

    def compute(self) -> None:
        """Over the whole set."""
        self.found = self.engines.loss(self.examples, tokens_per_batch=self.tokens_per_batch).mean


class Bare:
    """A loop as one writes it."""

    def __init__(self, folder: Path, examples: Sequence[EncodedExample]) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.train(False)
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
    ids = torch.tensor(example.input_ids)
    labels = torch.full_like(ids, IGNORED)
    for start, end in example.learned:
        labels[start:end] = ids[start:end]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


@contextmanager
def _ways(scene: Scene, gsm8k: Path | None) -> Iterator[tuple[list[Way], list[Ours | Bare]]]:
    """The ways to compute the loss of the scene's checkpoint, the bare one first."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-benchmark-")))
        scene.write(gsm8k, folder)
        checkpoint = CheckpointStore(checkpoints_folder(folder)).open(*scene.addresses())
        spec, sets = read_spec(folder), read_sets(read_spec(folder))
        bare = Bare(checkpoint.directory, sets.loss)
        ours = [_ours(spec, sets, memory) for memory in MEMORIES]
        for one in ours:
            stack.callback(one.engines.close)
            one.engines.load_weights(checkpoint)
        ways = [Way(f"ours, {name}", one.compute) for name, one in zip(NAMES, ours, strict=True)]
        yield [Way("bare", bare.compute), *ways], [bare, *ours]


def _ours(spec: StudySpec, sets: EvaluationSets, memory: Literal["views", "together"]) -> Ours:
    """Engines that share their memory like this; for a copy vLLM is not needed."""
    assert sets.generation is not None
    evaluation = spec.evaluation.model_copy(update={"memory": memory})
    engines = EvaluationEngines.load(
        spec.model,
        evaluation,
        device="cpu",
        max_model_len=sets.generation.longest,
        lora_rank=None,
        generation=memory == "views",
    )
    return Ours(engines, sets.loss, evaluation.tokens_per_batch)


def compare(scene: Scene, gsm8k: Path | None, turns: int) -> str:
    """The table of one model. Raises AssertionError where losses differ."""
    with _ways(scene, gsm8k) as (ways, found):
        alternate(ways, count=turns)
        differences = [abs(one.found / found[0].found - 1) for one in found]
        assert max(differences) < TOLERANCE, f"the losses differ: {[one.found for one in found]}"
        return table(scene, ways, differences)


def table(scene: Scene, ways: Sequence[Way], differences: Sequence[float]) -> str:
    """Each way in a row."""
    bare = ways[0]
    return "\n".join(
        [
            f"### loss, {scene.shape.name} parameters, {scene.items} examples",
            "",
            f"| way | {HEAD} | losses differ by |",
            f"|---|{RULE}|---:|",
            *(
                f"| {way.name} | {way.cells(bare)} | {difference:.1e} |"
                for way, difference in zip(ways, differences, strict=True)
            ),
            "",
            f"{len(bare.seconds)} turns. Load average {os.getloadavg()[0]:.1f}.",
            "",
        ]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", nargs="?", type=Path, help="folder with GSM8K's files")
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    prepare_environment("cpu")
    for scene in SCENES:
        print(compare(scene, given.gsm8k, given.turns), flush=True)
    print(NOTES)


if __name__ == "__main__":
    main()
