"""The loop with everything switched on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.spec.training.config import TrainingConfig
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import Diverged
from workers.trial.loop.report import StepReport
from workers.trial.loop.run import TrainingRun
from workers.trial.loop.scaling import GROWTH_STEPS, LossScale
from workers.trial.model.attached import AttachedModel
from workers.trial.model.reusable import ReusableModel

CPU = torch.device("cpu")
LORA: dict[str, Any] = {
    "type": "lora",
    "rank": 4,
    "alpha_ratio": 2,
    "dropout": 0.2,
    "plus_ratio": 4,
}
NOISY: dict[str, Any] = {
    "label_smoothing": 0.1,
    "rdrop": {"alpha": 0.5},
    "ema": {"decay": 0.9, "warmup_epochs": 0.3},
    "gradient_noise": {"scale": 1e-4},
    "neftune": {"alpha": 5},
}
CURRICULA = {
    "curriculum": {"start_fraction": 0.5},
    "dynamic_curriculum": {"warmup_epochs": 0.5},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "everything": {"method": LORA, "regularisation": NOISY, "order": CURRICULA},
    "progressive": {
        "method": LORA,
        "regularisation": NOISY,
        "from_epoch": {"label_smoothing": 0.4, "rdrop": 0.8, "ema": 0.8},
    },
    "packed": {
        "packing": True,
        "max_length": 48,
        "optimizer": {"type": "muon", "learning_rate": 3e-3},
        "order": {"length_buckets": 2},
        "quality_weighting": True,
    },
    "pure": {
        "compute": {"precision": "pure-bf16", "gradient_checkpointing": True},
        "schedule": {"type": "cosine-restarts", "cycles": 2},
        "optimizer": {"learning_rate": 3e-3, "layer_decay": 0.8, "offload": 0.5},
    },
    "dora": {
        "method": {**LORA, "dora": True, "bias": "all"},
        "padding": "max-length",
        "max_length": 32,
        "schedule": {"type": "wsd", "decay_ratio": 0.5},
    },
}


def configuration(**fields: Any) -> TrainingConfig:
    plain: dict[str, Any] = {
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1},
        "effective_batch_size": 8,
        "max_batches": 10,
        "seed": 1,
    }
    return TrainingConfig.model_validate({**plain, **fields})


def start(
    attached: AttachedModel, config: TrainingConfig, examples: list[EncodedExample]
) -> TrainingRun:
    return TrainingRun(attached, config, examples, pad_id=257, device=CPU)


def told(report: StepReport) -> StepReport:
    return replace(report, seconds=0.0)


def served(run: TrainingRun, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    run.save_checkpoint(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_resumed_equals_uninterrupted_to_the_last_bit(
    reusable: ReusableModel, examples: list[EncodedExample], tmp_path: Path, mixture: str
) -> None:
    weighed = [replace(one, weight=(i % 3) / 2) for i, one in enumerate(examples)]
    config = configuration(**{**MIXTURES[mixture], "compute": computed(mixture)})
    with reusable.attach(config) as attached:
        run = start(attached, config, weighed)
        reports, states = [], [run.state()]
        while not run.finished:
            reports.append(told(run.train_batch()))
            states.append(run.state())
        wanted = served(run, tmp_path / "whole")
    for step in (3, 6):
        torch.save(states[step], tmp_path / "training_state.pt")
        with reusable.attach(config) as attached:
            resumed = start(attached, config, weighed)
            resumed.load_state(tmp_path)
            assert [told(resumed.train_batch()) for _ in range(10 - step)] == reports[step:]
            assert served(resumed, tmp_path / f"from-{step}") == wanted
    reusable.verify()


def computed(mixture: str) -> dict[str, Any]:
    """Several micro-batches to a step."""
    return {**MIXTURES[mixture].get("compute", {}), "micro_batch": 3}


def test_everything_learns(reusable: ReusableModel, examples: list[EncodedExample]) -> None:
    config = configuration(**MIXTURES["everything"], max_length=32).model_copy(
        update={"max_batches": 30}
    )
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        reports = [run.train_batch() for _ in range(30)]
    assert reports[-1].loss < reports[0].loss
    # What is minimised holds smoothing and the divergence beside the plain loss.
    assert all(report.objective > report.loss for report in reports)


def test_an_ablated_feature_is_as_good_as_none(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    def losses(config: TrainingConfig) -> list[float]:
        with reusable.attach(config) as attached:
            run = start(attached, config, examples)
            return [run.train_batch().loss for _ in range(10)]

    names = ["rdrop", "gradient_noise", "neftune", "ema", "label_smoothing"]
    switched_off = configuration(method=LORA, regularisation=NOISY, ablation=names)
    assert losses(switched_off) == losses(configuration(method=LORA))


def test_averaged_weights_are_served_once_there_are_any(
    reusable: ReusableModel, examples: list[EncodedExample], tmp_path: Path
) -> None:
    ema = {"ema": {"decay": 0.5, "warmup_epochs": 0.6}}
    averaged, plain = configuration(regularisation=ema), configuration()
    files: dict[str, list[dict[str, bytes]]] = {"averaged": [], "plain": []}
    for name, config in (("averaged", averaged), ("plain", plain)):
        with reusable.attach(config) as attached:
            run = start(attached, config, examples)
            while not run.finished:
                run.train_batch()
                before = attached.state_dict()
                files[name].append(served(run, tmp_path / f"{name}-{run.step}"))
                after = attached.state_dict()
                assert all(torch.equal(before[key], after[key]) for key in before)
    same = [one == other for one, other in zip(files["averaged"], files["plain"], strict=True)]
    # Forty examples are an epoch: the fourth step begins at 0.6, where averaging starts.
    assert same == [True, True, True, True, False, False, False, False, False, False]


def test_a_float16_step_that_overflows_is_repeated_with_a_smaller_scale(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    half = configuration(method=LORA, compute={"precision": "fp16", "micro_batch": 3})
    with reusable.attach(half) as attached:
        assert attached.autocast_dtype is torch.float16
        run = start(attached, half, examples)
        scale = run._gradients._scale
        assert scale is not None
        scale.value = 2.0**22
        reports = [run.train_batch() for _ in range(10)]
        assert scale.value < 2.0**22
        assert run.step == 10
    plain = configuration(method=LORA, compute={"micro_batch": 3})
    with reusable.attach(plain) as attached:
        run = start(attached, plain, examples)
        wanted = [run.train_batch().loss for _ in range(10)]
    assert [report.loss for report in reports] == pytest.approx(wanted, rel=0.01)


def test_a_gradient_that_no_scale_makes_finite_ends_the_trial(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(compute={"precision": "fp16"})
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        _, weight = attached.trainable[0]
        handle = weight.register_hook(lambda gradient: gradient * float("inf"))
        with pytest.raises(Diverged, match="gradient norm is"):
            run.train_batch()
        handle.remove()
        assert run.step == 0


def test_the_loss_scale_grows_again() -> None:
    scale = LossScale()
    assert scale.shrink()
    for _ in range(GROWTH_STEPS):
        scale.taken()
    assert scale.value == 2.0**16
    while scale.shrink():
        pass
    assert scale.value == 1.0
    other = LossScale()
    other.restore(scale.state())
    assert other.value == 1.0
