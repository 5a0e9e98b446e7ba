from __future__ import annotations

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

from workers.data.tokens.encoded import EncodedExample

EPSILON = 0.15


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load(base)


def by_hand(model: Any, examples: list[EncodedExample]) -> torch.Tensor:
    """Cross-entropy against (1 - ε) · one-hot + ε / K, section 7 of the paper."""
    summed = []
    for one in examples:
        logits = full_logits(model, one)
        words = logits.shape[1]
        wanted = (1 - EPSILON) * torch.eye(words)[targets(one)] + EPSILON / words
        probabilities = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        summed.append(-(wanted * torch.log(probabilities)).sum())
    return torch.stack(summed).sum() / sum(one.counted for one in examples)


def test_the_target_is_mixed_with_the_whole_vocabulary(
    model: Any, examples: list[EncodedExample]
) -> None:
    few = examples[:7]
    config = configuration({"label_smoothing": EPSILON})
    wanted = by_hand(model, few)
    wanted_gradient = gradient(model, wanted)
    plain = torch.cat([negative_log_likelihoods(model, one) for one in few]).mean().item()
    for batches in (parts(few, 7), parts(few, 2), packed(few, 40, 2)):
        found = losses(model, config, few, batches)
        assert total(found).item() == pytest.approx(wanted.item(), rel=1e-5)
        torch.testing.assert_close(
            gradient(model, total(found)), wanted_gradient, rtol=1e-3, atol=1e-6
        )
        assert sum(part.loss.item() for part in found) == pytest.approx(plain, rel=1e-5)


def test_it_is_the_smoothing_of_torch(model: Any, examples: list[EncodedExample]) -> None:
    few = examples[:4]
    (found,) = losses(model, configuration({"label_smoothing": EPSILON}), few, parts(few, 4))
    logits = torch.cat([full_logits(model, one) for one in few])
    wanted = torch.nn.functional.cross_entropy(
        logits, torch.cat([targets(one) for one in few]), label_smoothing=EPSILON
    )
    assert found.objective.item() == pytest.approx(wanted.item(), rel=1e-5)
