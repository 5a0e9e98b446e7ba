import pytest
import torch
from torch import nn

from workers.trial.model.fingerprint import fingerprint


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(7, 5).to(dtype)
    module.register_buffer("count", torch.tensor(3))
    module.register_buffer("mask", torch.tensor([True, False]), persistent=False)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_models_have_equal_fingerprints(dtype: torch.dtype) -> None:
    assert fingerprint(model(dtype)) == fingerprint(model(dtype))


def test_every_small_change_shows() -> None:
    seen = {fingerprint(model())}
    for change in (
        lambda module: module.weight[0, 0].neg_(),
        lambda module: module.weight[0].copy_(module.weight[0].flip(0)),
        lambda module: module.bias[4].copy_(torch.nextafter(module.bias[4], torch.tensor(9.0))),
        lambda module: module.count.add_(1),
        lambda module: module.mask.logical_not_(),
        lambda module: module.register_buffer("more", torch.zeros(1)),
        lambda module: module.to(torch.bfloat16),
    ):
        changed = model()
        with torch.no_grad():
            change(changed)
        seen.add(fingerprint(changed))
    assert len(seen) == 8


def test_zero_and_minus_zero_differ() -> None:
    one, other = model(), model()
    with torch.no_grad():
        one.get_parameter("bias").fill_(0.0)
        other.get_parameter("bias").fill_(-0.0)
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_where_the_content_lies_does_not_matter(dtype: torch.dtype) -> None:
    """Not even at an odd place in a larger storage."""

    def holding(tensor: torch.Tensor) -> nn.Module:
        module = nn.Module()
        module.register_buffer("content", tensor)
        return module

    whole = torch.arange(100_003).to(dtype)
    moved = holding(whole[3:50_000])
    alone = holding(whole[3:50_000].clone())
    strided = holding(torch.stack([whole, whole], 1)[3:50_000, 0])
    assert fingerprint(moved) == fingerprint(alone) == fingerprint(strided)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 8191, 8192, 8193, 16_383, 16_384, 20_000])
def test_every_byte_counts_at_any_length(length: int) -> None:
    content = torch.zeros(length, dtype=torch.uint8)
    seen = set()
    for place in {0, length // 2, length - 1} if length else {0}:
        module = nn.Module()
        changed = content.clone()
        changed[place : place + 1] = 1
        module.register_buffer("content", changed)
        seen.add(fingerprint(module))
    assert len(seen) == len({0, length // 2, length - 1} if length else {0})


def test_words_and_rows_that_change_places_show() -> None:
    content = torch.arange(10_000, dtype=torch.float32)
    seen = set()
    for first, second in ((0, 0), (0, 1), (0, 2), (4, 2052), (9_998, 9_999), (17, 9_999)):
        swapped = content.clone()
        swapped[[first, second]] = content[[second, first]]
        module = nn.Module()
        module.register_buffer("content", swapped)
        seen.add(fingerprint(module))
    assert len(seen) == 6


def test_a_model_without_tensors_has_one_too() -> None:
    assert fingerprint(nn.ReLU())
