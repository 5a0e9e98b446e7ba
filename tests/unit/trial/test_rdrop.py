from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_lab import (
    configuration,
    full_logits,
    gradient,
    load,
    losses,
    negative_log_likelihoods,
    packed,
    parts,
    targets,
    total,
)
from torch import nn

from workers.data.tokens.encoded import EncodedExample

ALPHA, EPSILON = 0.7, 0.1


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load(base)


@pytest.fixture(scope="module")
def few(examples: list[EncodedExample]) -> list[EncodedExample]:
    return [replace(one, weight=place / 3) for place, one in enumerate(examples[:7])]


@contextmanager
def masks(model: Any) -> Iterator[None]:
    """Dropout of whole embeddings: even tokens in one pass, odd ones in the next."""
    passes = 0

    def drop(module: object, inputs: tuple[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        kept = (inputs[0] + passes) % 2 == 0
        return embedded * (0.3 + 1.4 * kept[..., None])

    hook = model.get_input_embeddings().register_forward_hook(drop)
    try:
        yield
    finally:
        hook.remove()


def by_hand(
    model: Any, examples: list[EncodedExample], epsilon: float = 0.0, *, weighted: bool = False
) -> torch.Tensor:
    """Half of equation 4 of the paper, averaged over tokens, from full distributions."""
    terms, weights = [], []
    for one in examples:
        logits = [full_logits(model, one) for _ in range(2)]
        first, second = (torch.softmax(each, 1) for each in logits)
        likelihoods = sum(
            nn.functional.cross_entropy(
                each, targets(one), reduction="none", label_smoothing=epsilon
            )
            for each in logits
        )
        forth = (first * torch.log(first / second)).sum(1)
        back = (second * torch.log(second / first)).sum(1)
        terms.append((likelihoods + ALPHA * 0.5 * (forth + back)) / 2)
        weights.append(torch.full((one.counted,), one.weight if weighted else 1.0))
    return (torch.cat(terms) * torch.cat(weights)).sum() / torch.cat(weights).sum()


@pytest.mark.parametrize("epsilon", [0.0, EPSILON])
@pytest.mark.parametrize("weighted", [False, True])
def test_two_passes_give_half_of_the_papers_loss(
    model: Any, few: list[EncodedExample], epsilon: float, weighted: bool
) -> None:
    config = configuration(
        {"rdrop": {"alpha": ALPHA}, "label_smoothing": epsilon}, quality_weighting=weighted
    )
    with masks(model):
        wanted = by_hand(model, few, epsilon, weighted=weighted)
        wanted_gradient = gradient(model, wanted)
        for size in (7, 3, 1):
            objective = total(losses(model, config, few, parts(few, size)))
            assert objective.item() == pytest.approx(wanted.item(), rel=1e-5)
            torch.testing.assert_close(
                gradient(model, objective), wanted_gradient, rtol=2e-3, atol=2e-6
            )


def test_the_reported_loss_is_the_mean_of_both_passes(
    model: Any, few: list[EncodedExample]
) -> None:
    config = configuration({"rdrop": {"alpha": ALPHA}, "label_smoothing": EPSILON})
    with masks(model):
        each = [
            [negative_log_likelihoods(model, one) for one in few for _ in range(2)][start::2]
            for start in range(2)
        ]
        wanted = sum(torch.cat(part).mean().item() for part in each) / 2
        found = losses(model, config, few, parts(few, 3))
    assert sum(part.loss.item() for part in found) == pytest.approx(wanted, rel=1e-5)


def test_without_dropout_nothing_diverges(model: Any, few: list[EncodedExample]) -> None:
    plain = losses(model, configuration(), few, parts(few, 4))
    rdrop = losses(model, configuration({"rdrop": {"alpha": 9.0}}), few, parts(few, 4))
    assert total(rdrop).item() == pytest.approx(total(plain).item(), rel=1e-6)
    torch.testing.assert_close(
        gradient(model, total(rdrop)), gradient(model, total(plain)), rtol=1e-4, atol=1e-7
    )


def test_dropout_makes_passes_differ(model: Any, few: list[EncodedExample]) -> None:
    config = configuration({"rdrop": {"alpha": 50.0}})
    layer = model.model.layers[0].self_attn
    layer.attention_dropout = 0.5
    try:
        torch.manual_seed(0)
        (found,) = losses(model, config, few, parts(few, 7))
    finally:
        layer.attention_dropout = 0.0
    assert found.objective.item() > found.loss.item() + 1e-3


def test_packed_rows_serve_too(model: Any, few: list[EncodedExample]) -> None:
    config = configuration({"rdrop": {"alpha": ALPHA}})
    with masks(model):
        wanted = total(losses(model, config, few, parts(few, 7))).item()
        found = total(losses(model, config, few, packed(few, 40, 2))).item()
    assert found == pytest.approx(wanted, rel=1e-5)
