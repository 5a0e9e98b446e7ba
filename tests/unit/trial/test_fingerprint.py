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


def test_a_model_without_tensors_has_one_too() -> None:
    assert fingerprint(nn.ReLU())
