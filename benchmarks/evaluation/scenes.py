"""What is evaluated: a base model, checkpoints that were trained from it, and a study of them.

`python -m benchmarks.evaluation.scenes NAME FOLDER [--gsm8k FOLDER]` writes a scene.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.data.tokenizer import make_tokenizer
from benchmarks.evaluation.problems import put_problems
from benchmarks.reset import load_base
from benchmarks.training.models import Shape
from hpo.launch.home import data_cache
from hpo.spec.load import load_study
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig
from storage.checkpoints import CheckpointStore
from workers.data.preparing.build import prepare
from workers.data.preparing.prepared import PreparedData
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.survey import load_encoder
from workers.evaluation.sets import EvaluationSets, generation_set
from workers.trial.loop.run import TrainingRun

CPU = torch.device("cpu")
MAX_LENGTH = 384
"""Tokens of an example."""
BATCH = 16
EXAMPLES = 24
"""What a checkpoint is said to have seen: the first rung."""

HALF_MILLION = Shape("0.5 M", 64, 5, 192, 2, 1)
TWENTY_MILLION = Shape("20 M", 448, 9, 1216, 14, 2)


@dataclass(frozen=True)
class Scene:
    """Checkpoints of one kind, and what they are scored on."""

    name: str
    shape: Shape
    method: Literal["full", "lora"]
    task: str
    items: int
    """Prompts that are answered, and examples of the loss."""
    max_new_tokens: int
    checkpoints: int
    steps: int
    """Optimizer steps from each checkpoint to the next."""

    @property
    def title(self) -> str:
        """The scene in words."""
        method = {"full": "full", "lora": "LoRA"}[self.method]
        return f"{self.shape.name} parameters, {method} checkpoints, graded as {self.task}"

    def addresses(self) -> list[str]:
        """The checkpoints below the folder that `write` gave them, the earliest first."""
        return [f"after-{(number + 1) * self.steps}" for number in range(self.checkpoints)]

    def write(self, gsm8k: Path | None, folder: Path) -> None:
        """Make model, data and study below the folder, then train and keep the checkpoints."""
        put_problems(gsm8k, folder / "data")
        make_tokenizer(folder / "data" / "train.jsonl", folder / "model", self.shape.vocabulary)
        self.shape.write(folder / "model")
        # JSON is YAML.
        study_file(folder).write_text(json.dumps(self._study(folder)))
        if self.checkpoints:
            self._train(folder)

    def _study(self, folder: Path) -> dict[str, Any]:
        test = str(folder / "data" / "test.jsonl")
        fields = {"prompt": "question", "completion": "answer", "samples": self.items}
        return {
            "name": self.name,
            "objective": {"metric": "loss", "direction": "minimize"},
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "data": {
                "train": {
                    "path": str(folder / "data" / "train.jsonl"),
                    **fields,
                    "samples": max(1, self.checkpoints) * self.steps * BATCH,
                },
                "loss": {"path": test, **fields},
                "generation": {
                    "path": test,
                    **fields,
                    "task": self.task,
                    "max_new_tokens": self.max_new_tokens,
                },
            },
            "training": {
                "method": {"type": self.method},
                "optimizer": {"learning_rate": {"low": 1e-3, "high": 3e-3}},
                "effective_batch_size": BATCH,
                "max_batches": self.checkpoints * self.steps + 1,
                "max_length": MAX_LENGTH,
            },
            "evaluation": {"every": {"examples": 1000}},
            "pruner": {"type": "asha", "reduction_factor": 3, "min_resource": EXAMPLES},
            "budget": {"trials": max(1, self.checkpoints)},
        }

    def _train(self, folder: Path) -> None:
        spec = read_spec(folder)
        config = _config(spec)
        examples = read_data(spec).training().cut(MAX_LENGTH).examples
        store = CheckpointStore(checkpoints_folder(folder))
        model = load_base(folder / "model", config, CPU)
        with model.attach(config) as attached:
            run = TrainingRun(attached, config, examples, pad_id=0, device=CPU)
            for address in self.addresses():
                for _ in range(self.steps):
                    run.train_batch()
                store.write(
                    address, attached.save, kind=self.method, step=run.step, examples=EXAMPLES
                )


TINY_EXACT = Scene("tiny-exact", HALF_MILLION, "full", "exact", 192, 128, 6, 8)
TINY_MATH = Scene("tiny-math", HALF_MILLION, "lora", "math", 192, 96, 6, 8)
LARGER_MATH = Scene("larger-math", TWENTY_MILLION, "full", "math", 48, 64, 5, 2)
LARGER_EXACT = Scene("larger-exact", TWENTY_MILLION, "lora", "exact", 48, 48, 5, 2)
SCENES = {one.name: one for one in (TINY_EXACT, TINY_MATH, LARGER_MATH, LARGER_EXACT)}


def study_file(folder: Path) -> Path:
    """The study file of a scene that was written there."""
    return folder / "study.yaml"


def checkpoints_folder(folder: Path) -> Path:
    """Root of the checkpoints of a scene that was written there."""
    return folder / "checkpoints"


def read_spec(folder: Path) -> StudySpec:
    """The study of a scene that was written there."""
    return load_study(str(study_file(folder)), {})


def read_data(spec: StudySpec) -> PreparedData:
    """The study's data, out of the state folder's cache where it was prepared before."""
    return prepare(Recipe.of(spec), data_cache())


def read_sets(spec: StudySpec) -> EvaluationSets:
    """What the study's checkpoints are scored on, as an evaluation worker has it."""
    prepared = read_data(spec)
    generation = spec.data.generation
    assert generation is not None
    encoder = load_encoder(spec.model.path, spec.data, prepared.shots)
    return EvaluationSets(
        prepared.encoded("loss").cut(MAX_LENGTH).examples,
        generation_set(prepared, "generation", generation, encoder),
    )


def _config(spec: StudySpec) -> TrainingConfig:
    """The study's training with the largest learning rate of its range."""
    return TrainingConfig.model_validate(spec.training | {"optimizer": {"learning_rate": 3e-3}})


def main() -> None:
    """Write a scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SCENES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    given = parser.parse_args()
    SCENES[given.name].write(given.gsm8k, given.folder)


if __name__ == "__main__":
    main()
