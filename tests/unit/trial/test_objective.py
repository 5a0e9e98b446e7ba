from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_lab import (
    configuration,
    gradient,
    load,
    losses,
    negative_log_likelihoods,
    packed,
    parts,
    total,
)

from hpo.spec.training.config import TrainingConfig
from workers.data.batches import loss
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.objective.objective import Objective

DYNAMIC: dict[str, Any] = {"order": {"dynamic_curriculum": {}}}


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load(base)


@pytest.fixture(scope="module")
def step(examples: list[EncodedExample]) -> list[EncodedExample]:
    """Eight examples of uneven quality; of one nothing counts, two have two spans."""
    weighed = [replace(one, weight=place / 4) for place, one in enumerate(examples[:8])]
    weighed[5] = replace(weighed[5], learned=((0, 1),))
    for place in (2, 6):
        weighed[place] = replace(weighed[place], learned=((1, 2), (4, 5)))
    return weighed


def by_hand(model: Any, examples: list[EncodedExample], *, weighted: bool) -> torch.Tensor:
    """Σ weight · loss / Σ weight over all learned tokens, one example at a time."""
    weights = [one.weight if weighted else 1.0 for one in examples]
    pairs = list(zip(weights, examples, strict=True))
    summed = [weight * negative_log_likelihoods(model, one).sum() for weight, one in pairs]
    return torch.stack(summed).sum() / sum(weight * one.counted for weight, one in pairs)


@pytest.mark.parametrize("weighted", [False, True])
def test_plain_training_is_cross_entropy_over_the_whole_step(
    model: Any, step: list[EncodedExample], weighted: bool
) -> None:
    config = configuration(quality_weighting=weighted)
    wanted = by_hand(model, step, weighted=weighted)
    wanted_gradient = gradient(model, wanted)
    for batches in (parts(step, 8), parts(step, 3), parts(step, 1), packed(step, 30, 2)):
        found = losses(model, config, step, batches)
        objective = total(found)
        assert objective.item() == pytest.approx(wanted.item(), rel=1e-5)
        reported = torch.stack([part.loss for part in found]).sum()
        assert reported.dtype == torch.float64
        assert reported.item() == pytest.approx(wanted.item(), rel=1e-5)
        assert not reported.requires_grad
        torch.testing.assert_close(
            gradient(model, objective), wanted_gradient, rtol=1e-3, atol=1e-6
        )
        assert {part.per_example for part in found} == {None}


def test_the_objective_is_the_loss_of_evaluation(model: Any, step: list[EncodedExample]) -> None:
    (found,) = losses(model, configuration(), step, parts(step, 8))
    summed, counted = loss.token_losses(model, parts(step, 8)[0])
    assert torch.equal(found.objective, summed / counted)


def test_features_decide_from_step_to_step(model: Any, step: list[EncodedExample]) -> None:
    given = {
        "label_smoothing": 0.2,
        "rdrop": {"alpha": 1.0},
        "neftune": {"alpha": 5.0},
    }
    config = configuration(given, quality_weighting=True)
    plain = losses(model, configuration(), step, parts(step, 8))
    before = torch.get_rng_state()
    passes: list[int] = []
    hook = model.base_model.register_forward_hook(lambda *_: passes.append(1))
    off = losses(model, config, step, parts(step, 8), features=frozenset())
    hook.remove()
    assert len(passes) == 1
    assert torch.equal(total(off), total(plain))
    assert torch.equal(before, torch.get_rng_state())
    weighted = losses(
        model, config, step, parts(step, 8), features=frozenset({"quality_weighting"})
    )
    assert total(weighted).item() == pytest.approx(
        by_hand(model, step, weighted=True).item(), rel=1e-5
    )


@pytest.mark.parametrize(
    "regularisation", [{}, {"label_smoothing": 0.2}, {"rdrop": {"alpha": 1.0}}]
)
def test_examples_have_their_own_plain_mean_losses(
    model: Any, step: list[EncodedExample], regularisation: dict[str, Any]
) -> None:
    config = configuration(regularisation, quality_weighting=True, **DYNAMIC)
    wanted = [
        negative_log_likelihoods(model, one).mean().item() if one.counted else 0.0 for one in step
    ]
    assert wanted[5] == 0
    layouts = [parts(step, 8), parts(step, 3)]
    if not regularisation:
        layouts.append(packed(step, 40, 2))
    for batches in layouts:
        found = losses(model, config, step, batches)
        by_member: dict[int, float] = {}
        for part, batch in zip(found, batches, strict=True):
            assert part.per_example is not None
            assert part.per_example.dtype == torch.float32
            assert not part.per_example.requires_grad
            by_member |= dict(zip(batch.members, part.per_example.tolist(), strict=True))
        assert [by_member[place] for place in range(8)] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_without_anything_learned_has_no_gradient(
    model: Any, step: list[EncodedExample], weighted: bool
) -> None:
    nothing = [replace(one, learned=((0, 1),)) for one in step]
    if weighted:
        nothing = [replace(one, weight=0.0) for one in step]
    config = configuration(
        {"label_smoothing": 0.1, "rdrop": {"alpha": 1.0}}, quality_weighting=weighted, **DYNAMIC
    )
    (found,) = losses(model, config, nothing, parts(nothing, 8))
    assert found.objective.item() == 0
    # Zero would pass for a model that knows its examples by heart.
    assert (found.loss.item() > 0) == weighted
    assert found.per_example is not None
    assert found.per_example.isfinite().all()
    assert not gradient(model, found.objective).any()


@pytest.mark.parametrize(
    "regularisation",
    [{}, {"label_smoothing": 0.2}, {"rdrop": {"alpha": 2.0}, "label_smoothing": 0.1}],
)
def test_chunks_change_neither_losses_nor_gradient(
    model: Any,
    step: list[EncodedExample],
    regularisation: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configuration(regularisation, quality_weighting=True, **DYNAMIC)
    (whole,) = losses(model, config, step, parts(step, 8))
    wanted = gradient(model, whole.objective)
    monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", 13 * model.config.vocab_size)
    (chunked,) = losses(model, config, step, parts(step, 8))
    assert chunked.objective.item() == pytest.approx(whole.objective.item(), rel=1e-6)
    assert chunked.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    torch.testing.assert_close(chunked.per_example, whole.per_example)
    torch.testing.assert_close(gradient(model, chunked.objective), wanted, rtol=1e-4, atol=1e-6)


def most_logits(model: Any, config: TrainingConfig, examples: list[EncodedExample]) -> int:
    """Tokens whose logits the output layer makes at a time, in forward and backward."""
    sizes: list[int] = []
    output = model.get_output_embeddings()
    hook = output.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    try:
        total(losses(model, config, examples, parts(examples, 8))).backward()  # type: ignore[no-untyped-call]
    finally:
        hook.remove()
    return max(sizes)


@pytest.mark.parametrize("regularisation", [{}, {"rdrop": {"alpha": 2.0}}])
def test_logits_are_made_at_counted_positions_in_chunks(
    model: Any,
    step: list[EncodedExample],
    regularisation: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configuration(regularisation)
    assert most_logits(model, config, step) == sum(one.counted for one in step)
    monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", 12 * model.config.vocab_size)
    assert most_logits(model, config, step) == (3 if regularisation else 12)


def test_autocast_rounds_no_losses(model: Any, step: list[EncodedExample]) -> None:
    config = configuration({"label_smoothing": 0.1}, quality_weighting=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = losses(model, config, step, parts(step, 8))
    assert found.objective.dtype == torch.float32
    # One rounding of a sum to bfloat16 would show in its last sixteen bits.
    assert found.objective.item() != found.objective.bfloat16().item()
    (exact,) = losses(model, config, step, parts(step, 8))
    assert found.objective.item() == pytest.approx(exact.objective.item(), rel=1e-2)


def test_code_loss_needs_code_blocks() -> None:
    with pytest.raises(ValueError, match="CodeBlocks"):
        Objective(configuration({"code_loss": {"weight": 0.1}}), None)


def test_a_step_that_weighs_nothing_tells_its_plain_loss(
    model: Any, examples: list[EncodedExample]
) -> None:
    few = [replace(one, weight=0.0) for one in examples[:5]]
    config = configuration({"label_smoothing": 0.1}, quality_weighting=True)
    found = losses(model, config, few, parts(few, 2))
    wanted = torch.cat([negative_log_likelihoods(model, one) for one in few]).mean().item()
    assert sum(part.loss.item() for part in found) == pytest.approx(wanted, rel=1e-5)
    assert total(found).item() == 0
