"""Trials on a tiny model; run as a script it is a fresh process for one trial."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.run import TrainingRun
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel


def training_set() -> list[EncodedExample]:
    draw = random.Random(0)
    return [
        EncodedExample.completion_only(
            (*(draw.randrange(256) for _ in range(draw.randint(4, 24))), 256), 3
        )
        for _ in range(40)
    ]


def load(folder: Path, dtype: Any, configs: list[TrainingConfig]) -> ReusableModel:
    """A model for trials of these configurations."""
    spec = ModelSpec(path=str(folder), dtype=dtype)
    return ReusableModel.load(spec, device=torch.device("cpu"), needs=ModelNeeds.of(configs))


def begin(reusable: ReusableModel, attached: Any, config: TrainingConfig) -> TrainingRun:
    return TrainingRun(
        attached,
        config,
        training_set(),
        pad_id=257,
        device=torch.device("cpu"),
    )


def trajectory(reusable: ReusableModel, config: TrainingConfig) -> list[str]:
    """Loss and gradient norm of every step, to the last bit."""
    with reusable.attach(config) as attached:
        run = begin(reusable, attached, config)
        reports = [run.train_batch() for _ in range(run.total_steps)]
    return [f"{report.loss.hex()} {report.gradient_norm.hex()}" for report in reports]


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    config = TrainingConfig.model_validate(request["config"])
    reusable = load(Path(request["folder"]), request["dtype"], [config])
    print(json.dumps(trajectory(reusable, config)))


if __name__ == "__main__":
    main()
