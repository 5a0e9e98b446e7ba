"""A trial after five others is the same trial in a fresh process, bit for bit.

Whatever the others were: the fresh process is made for the one trial alone.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import one_trial
import pytest
import torch

from hpo.spec.training.config import TrainingConfig
from workers.tiny import make_model
from workers.trial.failures import Diverged
from workers.trial.model.reusable import ReusableModel

FULL: dict[str, Any] = {"type": "full"}
SMALL: dict[str, Any] = {"type": "lora", "rank": 2, "alpha": 4, "target_modules": ["q_proj"]}
LARGE: dict[str, Any] = {"type": "lora", "rank": 8, "alpha": 8, "dropout": 0.2}

OTHER: dict[str, Any] = {
    "type": "lora",
    "rank": 3,
    "alpha": 3,
    "target_modules": ["up_proj", "v_proj"],
}
DORA: dict[str, Any] = {"type": "lora", "rank": 4, "dora": True, "target_modules": "attention"}
BIASED: dict[str, Any] = {"type": "lora", "rank": 4, "bias": "all", "rslora": True, "dropout": 0.1}

COMPUTE: list[dict[str, Any]] = [
    {"precision": "pure-bf16"},
    {"precision": "fp32", "attention": "eager"},
    {"gradient_checkpointing": True, "deterministic": True},
]
"""What the trials before compute with, in turn."""


def configuration(method: dict[str, Any], **fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "method": method,
            "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
            "effective_batch_size": 8,
            "max_batches": 6,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(folder: Path, dtype: str, config: TrainingConfig) -> list[str]:
    request = {"folder": str(folder), "dtype": dtype, "config": config.model_dump()}
    done = subprocess.run(
        [sys.executable, one_trial.__file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses: list[str] = json.loads(done.stdout)
    return losses


def interrupted(reusable: ReusableModel, config: TrainingConfig) -> None:
    with reusable.attach(config) as attached:
        one_trial.begin(reusable, attached, config).train_batch()
        raise InterruptedError


def diverging(reusable: ReusableModel, config: TrainingConfig) -> None:
    with reusable.attach(config) as attached:
        run = one_trial.begin(reusable, attached, config)
        run.train_batch()
        with torch.no_grad():
            attached.trainable[0][1].fill_(math.nan)
        with pytest.raises(Diverged):
            run.train_batch()


def wear(reusable: ReusableModel, configs: list[TrainingConfig]) -> None:
    """Five trials: three whole ones, one that raised midway, one with NaN."""
    for config in configs:
        one_trial.trajectory(reusable, config)
        reusable.verify()
    with pytest.raises(InterruptedError):
        interrupted(reusable, configs[0])
    diverging(reusable, configs[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("dtype", "method", "compute", "before"),
    [
        ("float32", FULL, {}, [FULL, FULL, FULL]),
        ("float32", LARGE, {}, [SMALL, FULL, OTHER]),
        ("float32", DORA, {"gradient_checkpointing": True}, [BIASED, FULL, DORA]),
        ("bfloat16", FULL, {}, [DORA, LARGE, BIASED]),
        ("bfloat16", FULL, {"precision": "pure-bf16"}, [FULL, LARGE, FULL]),
        ("bfloat16", LARGE, {"attention": "eager"}, [SMALL, FULL, OTHER]),
        ("bfloat16", BIASED, {"precision": "fp32"}, [FULL, BIASED, DORA]),
    ],
    ids=[
        "full",
        "lora-after-both",
        "dora-after-all",
        "full-after-lora-bfloat16",
        "full-in-bfloat16",
        "lora-after-both-bfloat16",
        "biases-after-all-bfloat16",
    ],
)
def test_a_reused_model_trains_as_a_fresh_one(
    folder: Path,
    dtype: str,
    method: dict[str, Any],
    compute: dict[str, Any],
    before: list[dict[str, Any]],
) -> None:
    others = [
        configuration(other, seed=seed + 10, compute=COMPUTE[seed])
        for seed, other in enumerate(before)
    ]
    config = configuration(method, seed=3, compute=compute)
    reusable = one_trial.load(folder, dtype, [config, *others])
    wear(reusable, others)
    reused = one_trial.trajectory(reusable, config)
    assert reused == fresh(folder, dtype, config)
    reusable.verify()
