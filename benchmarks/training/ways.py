"""One way to train on the same problems, as a process of its own.

`python -m benchmarks.training.ways WAY FOLDER` prints tokens and seconds as JSON.
Each way has its usual settings and the same model, optimizer, learning rate,
clipping and 16 rows per step: 4 at a time, accumulated 4 times.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from benchmarks.training.problems import END, as_examples, as_rows
from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from workers.trial.loop.run import TrainingRun
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

BATCH, MICRO_BATCH, RATE, MAX_LENGTH = 16, 4, 1e-4, 1024
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Speed:
    """How long one pass over the problems took."""

    tokens: int
    """Tokens without padding."""
    seconds: float
    busy: float
    """Seconds of a processor, which other work on the machine disturbs less."""
    steps: int
    """Optimizer steps."""
    loss: float
    """Mean of the steps' losses, as the way itself tells it."""

    @property
    def per_second(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def per_busy_second(self) -> float:
        """Tokens per second of a processor."""
        return self.tokens / self.busy


def ours(folder: Path, **options: Any) -> Speed:
    """Our loop; `options` are fields of the training section."""
    examples = as_examples(folder)
    config = TrainingConfig.model_validate(
        {
            "optimizer": {"learning_rate": RATE},
            "schedule": {"type": "constant"},
            "effective_batch_size": BATCH,
            "epochs": 1,
            "max_length": MAX_LENGTH,
            "compute": {"micro_batch": MICRO_BATCH},
            **options,
        }
    )
    spec = ModelSpec(path=str(folder / "model"), dtype="float32")
    model = ReusableModel.load(spec, device=CPU, needs=ModelNeeds.of([config]))
    with model.attach(config) as attached:
        run = TrainingRun(attached, config, examples, pad_id=END, device=CPU)
        watch = Watch()
        watch.begin()
        reports = [run.train_batch() for _ in range(run.total_steps)]
        watch.end()
    tokens = sum(report.input_tokens for report in reports)
    loss = sum(report.loss for report in reports) / len(reports)
    return Speed(tokens, watch.seconds, watch.busy, len(reports), loss)


def trainer(folder: Path) -> Speed:
    """Transformers' Trainer with padding to the longest of a micro-batch."""
    collate = Counting(DataCollatorForSeq2Seq(_tokenizer(folder)))
    made = Trainer(
        model=_model(folder),
        args=TrainingArguments(**_arguments(folder)),
        train_dataset=as_rows(folder),
        data_collator=collate,
    )
    return collate.speed(made)


def sft(folder: Path, *, packing: bool) -> Speed:
    """TRL's SFTTrainer, its own collator, padded or packed by its own strategy."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(**_arguments(folder), max_length=MAX_LENGTH, packing=packing)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in as_rows(folder)]
    made = SFTTrainer(
        model=_model(folder),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=_tokenizer(folder),
    )
    collate = Counting(made.data_collator)
    made.data_collator = collate
    return collate.speed(made)


@dataclass
class Counting:
    """A collator that counts the tokens it is given."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    tokens: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch that the collator makes."""
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        return self.collate(rows)

    def speed(self, trainer: Any) -> Speed:
        """Train to the end; what is done before the first step does not count."""
        watch = Watch()
        trainer.add_callback(watch)
        result = trainer.train()
        return Speed(
            self.tokens, watch.seconds, watch.busy, result.global_step, result.training_loss
        )


@dataclass
class Watch(TrainerCallback):
    """Times the training itself."""

    seconds: float = 0.0
    busy: float = 0.0

    def begin(self) -> None:
        """The first batch is made next."""
        self.seconds, self.busy = -perf_counter(), -process_time()

    def end(self) -> None:
        """The last step was taken."""
        self.seconds += perf_counter()
        self.busy += process_time()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Called by a trainer."""
        self.begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Called by a trainer."""
        self.end()


def _arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "output"),
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


WAYS: dict[str, Callable[[Path], Speed]] = {
    "ours, padded": ours,
    "ours, padded, micro-batch found": lambda folder: ours(folder, compute={}),
    "ours, packed": lambda folder: ours(folder, packing=True),
    "ours, packed in rows of 512": lambda folder: ours(folder, packing=True, max_length=512),
    "Trainer": trainer,
    "SFTTrainer": lambda folder: sft(folder, packing=False),
    "SFTTrainer, packing": lambda folder: sft(folder, packing=True),
}


def main() -> None:
    """Train once."""
    way, folder = sys.argv[1:]
    print(json.dumps(asdict(WAYS[way](Path(folder)))))


if __name__ == "__main__":
    main()
