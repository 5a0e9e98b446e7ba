from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod
from workers.data.batches.collate import collate
from workers.data.batches.loss import token_losses
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import Diverged, DoesNotFit, InvalidTrial, StateOfAnotherRun
from workers.trial.loop.microbatch import MicroBatch
from workers.trial.loop.report import StepReport
from workers.trial.loop.run import TrainingRun
from workers.trial.model.attached import AttachedModel
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

CPU = torch.device("cpu")
LORA: dict[str, Any] = {"type": "lora", "rank": 4, "alpha": 8, "dropout": 0.2}
METHODS = [{"type": "full"}, LORA]


def configuration(**fields: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1},
        "effective_batch_size": 8,
        "max_batches": 8,
        "seed": 1,
    }
    return TrainingConfig.model_validate({**defaults, **fields})


def load(folder: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> ReusableModel:
    spec = ModelSpec(path=str(folder), dtype=dtype)
    return ReusableModel.load(spec, device=CPU, needs=ModelNeeds(frozenset({"full", "lora"})))


def start(
    attached: AttachedModel,
    config: TrainingConfig,
    examples: list[EncodedExample],
    *,
    micro_batch: int | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> TrainingRun:
    run = TrainingRun(
        attached,
        config,
        examples,
        pad_id=257,
        device=CPU,
        on_progress=on_progress,
    )
    if micro_batch is not None:
        run._micro_batch.size = micro_batch
    return run


def finish(run: TrainingRun) -> list[StepReport]:
    reports = []
    while not run.finished:
        reports.append(run.train_batch())
    return reports


def train(
    reusable: ReusableModel, config: TrainingConfig, examples: list[EncodedExample], **how: Any
) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    with reusable.attach(config) as attached:
        return finish(start(attached, config, examples, **how)), attached.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def memory_for(reusable: ReusableModel, examples: int) -> Iterator[None]:
    """A forward pass over more examples runs out of memory."""

    def check(module: object, args: object, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > examples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    hook = reusable.model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_reports_count_steps_examples_and_tokens(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(schedule={"type": "linear", "warmup_steps": 2})
    progress: list[int] = []
    reports, _ = train(
        reusable, config, examples, micro_batch=3, on_progress=lambda: progress.append(1)
    )
    assert [report.step for report in reports] == list(range(1, 9))
    assert [report.examples for report in reports] == list(range(8, 65, 8))
    # Five steps of eight are one epoch over forty examples.
    assert sum(report.tokens for report in reports[:5]) == sum(one.counted for one in examples)
    rates = [report.learning_rate for report in reports]
    assert rates[:3] == pytest.approx([0, 1.5e-3, 3e-3])
    assert rates[-1] == pytest.approx(5e-4)
    assert {report.micro_batch for report in reports} == {3}
    assert len(progress) == 3 * 8
    assert reports[-1].loss < reports[0].loss
    assert all(report.seconds > 0 for report in reports)


def test_the_loss_of_a_step_is_over_all_its_tokens(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    few = examples[:8]
    with reusable.attach(configuration()) as attached:
        batch = collate(few, pad_id=0, device=CPU)
        total, counted = token_losses(attached.module, batch)
        (total / counted).backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for _, weight in attached.trainable if weight.grad is not None]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        report = start(attached, configuration(), few, micro_batch=3).train_batch()
    assert report.loss == pytest.approx(total.item() / counted, rel=1e-5)
    assert report.tokens == counted
    assert report.gradient_norm == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_resumed_equals_uninterrupted(
    base: Path, examples: list[EncodedExample], tmp_path: Path, method: Any
) -> None:
    reusable = load(with_dropout(base, tmp_path / "base"))
    config = configuration(method=method, schedule={"type": "cosine", "warmup_ratio": 0.2})
    whole, weights = train(reusable, config, examples, micro_batch=3)
    with reusable.attach(config) as attached:
        run = start(attached, config, examples, micro_batch=3)
        head = [run.train_batch() for _ in range(3)]
        run.save_state(tmp_path)
    with reusable.attach(config.model_copy(update={"seed": 99})) as attached:
        run = start(attached, config, examples)
        run.load_state(tmp_path)
        assert (run.step, run.examples_seen) == (3, 24)
        tail = finish(run)
        assert same(attached.state_dict(), weights)
    assert values(head + tail) == values(whole)


def with_dropout(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


def values(reports: list[StepReport]) -> list[tuple[object, ...]]:
    """All of the reports but the time."""
    return [
        (r.step, r.examples, r.loss, r.objective, r.tokens, r.gradient_norm, r.learning_rate)
        for r in reports
    ]


def test_a_state_is_a_copy_and_stays_as_it_was(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(method=LORA)
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        run.train_batch()
        state = run.state()
        first = values(finish(run))
        run.restore(state)
        assert values(finish(run)) == first


def test_a_state_of_another_run_is_refused(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    with reusable.attach(configuration()) as attached:
        state = start(attached, configuration(), examples).state()
        with pytest.raises(StateOfAnotherRun, match="another run"):
            start(attached, configuration(), examples[:-1]).restore(state)
        with pytest.raises(StateOfAnotherRun, match="another run"):
            start(attached, configuration(seed=2), examples).restore(state)


def test_dropout_is_on_in_training_and_follows_the_seed(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(method=LORA, optimizer={"learning_rate": 0.03})
    dropped, _ = train(reusable, config, examples)
    again, _ = train(reusable, config, examples)
    without, _ = train(
        reusable,
        config.model_copy(update={"method": LoraMethod(**LORA | {"dropout": 0})}),
        examples,
    )
    assert values(dropped) == values(again)
    assert values(dropped) != values(without)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
def test_the_split_in_micro_batches_does_not_matter(
    reusable: ReusableModel, examples: list[EncodedExample], micro_batch: int
) -> None:
    """In float32 after eight steps: losses within 1e-5, weights within 1e-4.

    Rounding differs with the split, and Adam divides by the gradient's size.
    """
    config = configuration(optimizer={"learning_rate": 1e-3, "epsilon": 1e-6})
    whole, weights = train(reusable, config, examples, micro_batch=8)
    split, split_weights = train(reusable, config, examples, micro_batch=micro_batch)
    assert [r.loss for r in split] == pytest.approx([r.loss for r in whole], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(split_weights[name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_running_out_of_memory_halves_the_micro_batch(
    reusable: ReusableModel, examples: list[EncodedExample], method: Any
) -> None:
    config = configuration(method=method)
    direct, weights = train(reusable, config, examples, micro_batch=2)
    with memory_for(reusable, 3):
        halved, halved_weights = train(reusable, config, examples)
    assert {report.micro_batch for report in halved} == {2}
    assert values(halved) == values(direct)
    assert same(halved_weights, weights)


def test_one_example_that_does_not_fit_ends_the_trial(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    with memory_for(reusable, 0), pytest.raises(DoesNotFit) as caught:
        train(reusable, configuration(), examples)
    assert caught.value.message == (
        "out of memory at micro-batch 1: CUDA out of memory. Tried to allocate"
    )
    reusable.verify()


def test_the_first_micro_batch_follows_the_longest_example() -> None:
    def size(longest: int, effective: int, **fields: Any) -> int:
        few = [EncodedExample.completion_only(range(n), 1) for n in (2, longest)]
        config = configuration(effective_batch_size=effective, **fields)
        return MicroBatch.initial(config, few, CPU).size

    assert size(longest=10, effective=64) == 64
    assert size(longest=1024, effective=64) == 8
    assert size(longest=100_000, effective=64) == 1
    assert size(longest=10, effective=64, padding="max-length") == 8
    assert size(longest=10, effective=64, packing=True, max_length=4096) == 2
    assert size(longest=10, effective=64, compute={"micro_batch": 5}) == 5
    assert size(longest=10, effective=4, compute={"micro_batch": 5}) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_trial_before_the_step(
    reusable: ReusableModel, examples: list[EncodedExample], value: float
) -> None:
    config = configuration()
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        run.train_batch()
        with torch.no_grad():
            attached.base.get_parameter("model.norm.weight").fill_(value)
        before = attached.state_dict()
        with pytest.raises(Diverged, match=r"nan at step 2 of 8, learning rate 0\.00263"):
            run.train_batch()
        after = attached.state_dict()
        assert run.step == 1
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    reusable.verify()


def test_a_gradient_that_is_not_finite_ends_the_trial(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration()
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        _, weight = attached.trainable[0]
        weight.register_hook(lambda gradient: gradient * math.inf)
        before = attached.state_dict()
        with pytest.raises(Diverged, match="gradient norm is"):
            run.train_batch()
        assert same(attached.state_dict(), before)


def test_a_step_that_is_interrupted_has_not_happened(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(method=LORA)
    whole, weights = train(reusable, config, examples, micro_batch=3)
    calls = 0

    def interrupt() -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 9):
            raise InterruptedError

    with reusable.attach(config) as attached:
        run = start(attached, config, examples, micro_batch=3, on_progress=interrupt)
        reports = []
        while not run.finished:
            try:
                reports.append(run.train_batch())
            except InterruptedError:
                continue
        assert values(reports) == values(whole)
        assert same(attached.state_dict(), weights)


def test_gradients_are_clipped(reusable: ReusableModel, examples: list[EncodedExample]) -> None:
    def change(clipping: float | None) -> float:
        # With a large epsilon Adam's step is nearly the gradient itself.
        config = configuration(
            optimizer={"learning_rate": 1.0, "epsilon": 1.0},
            gradient_clipping=clipping,
            max_batches=1,
        )
        _, after = train(reusable, config, examples)
        before = dict(reusable.model.named_parameters())
        return math.sqrt(sum(float((after[name] - before[name]).norm() ** 2) for name in after))

    assert change(0.01) == pytest.approx(0.01, rel=0.05)
    assert change(None) == pytest.approx(change(1e9))
    assert change(None) > 10 * change(0.01)


def test_randomness_stays_inside(reusable: ReusableModel, examples: list[EncodedExample]) -> None:
    config = configuration(method=LORA)
    expected, _ = train(reusable, config, examples)
    with reusable.attach(config) as attached:
        run = start(attached, config, examples)
        reports = []
        while not run.finished:
            drawn = random.random(), np.random.rand(), torch.rand(3)
            outside = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
            reports.append(run.train_batch())
            assert random.getstate() == outside[0]
            assert str(np.random.get_state()) == outside[1]
            assert torch.equal(torch.get_rng_state(), outside[2])
            assert drawn
    assert values(reports) == values(expected)


def test_small_updates_are_not_lost_under_bfloat16(
    base: Path, examples: list[EncodedExample]
) -> None:
    """At 1e-6 a step is far below bfloat16's resolution of these weights."""
    reusable = load(base, "bfloat16")
    config = configuration(optimizer={"learning_rate": 1e-6}, schedule={"type": "constant"})
    _, weights = train(reusable, config, examples)
    name = "model.norm.weight"
    before = reusable.model.get_parameter(name)
    moved = (weights[name] - before).abs()
    assert weights[name].dtype == torch.float32
    assert moved.max().item() == pytest.approx(8e-6, rel=0.1)
    assert torch.equal(weights[name].to(torch.bfloat16), before.to(torch.bfloat16))


def test_nothing_to_train_on_is_invalid(reusable: ReusableModel) -> None:
    with (
        reusable.attach(configuration()) as attached,
        pytest.raises(InvalidTrial, match=r"max_length: given 1024"),
    ):
        start(attached, configuration(), [])


def test_a_finished_run_takes_no_further_step(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    with reusable.attach(configuration()) as attached:
        run = start(attached, configuration(max_batches=1), examples)
        finish(run)
        with pytest.raises(RuntimeError, match="all 1 steps"):
            run.train_batch()


def weighing(examples: list[EncodedExample], weights: list[float]) -> list[EncodedExample]:
    return [
        EncodedExample(example.input_ids, example.learned, weights[index % len(weights)])
        for index, example in enumerate(examples)
    ]


def test_quality_weighs_examples_only_when_asked(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    weighed = weighing(examples, [0.1, 1.0])
    plain, weights = train(reusable, configuration(), examples)
    ignored, same_weights = train(reusable, configuration(), weighed)
    _, other = train(reusable, configuration(quality_weighting=True), weighed)
    assert [report.loss for report in ignored] == [report.loss for report in plain]
    assert same(weights, same_weights)
    assert not same(weights, other)


def test_examples_that_weigh_nothing_are_not_learned(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    config = configuration(quality_weighting=True, effective_batch_size=len(examples))
    half = weighing(examples, [0.0, 1.0])
    others = [
        EncodedExample(tuple(reversed(example.input_ids)), example.learned, example.weight)
        if example.weight == 0
        else example
        for example in half
    ]
    first, weights = train(reusable, config, half, micro_batch=4)
    second, again = train(reusable, config, others, micro_batch=4)
    assert [r.loss for r in first] == pytest.approx([r.loss for r in second], rel=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, again[name], rtol=1e-5, atol=1e-6)


def test_a_step_without_any_weight_changes_nothing_but_decay(
    reusable: ReusableModel, examples: list[EncodedExample]
) -> None:
    reports, _ = train(reusable, configuration(quality_weighting=True), weighing(examples, [0.0]))
    assert {report.objective for report in reports} == {0.0}
    assert all(report.loss > 1 for report in reports)
    assert all(report.gradient_norm == 0 for report in reports)
