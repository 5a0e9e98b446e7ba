"""The package's kernels run on a CPU too, where nothing is paged."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pytest
import torch
from optimizer_lab import Named, config, equal, take_steps, trained, weights
from torch import nn

from hpo.spec.training.config import TrainingConfig
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.groups import Grouping

if TYPE_CHECKING:
    from workers.trial.optimizer.bitsandbytes import BitsAndBytesAdamW

pytest.importorskip("bitsandbytes")


def make(given: TrainingConfig, named: Named, bits: int = 8) -> BitsAndBytesAdamW:
    from workers.trial.optimizer.bitsandbytes import BitsAndBytesAdamW

    groups = Grouping(given, named).groups(named, bits=bits)
    return BitsAndBytesAdamW(groups, betas=(0.9, 0.999), eps=1e-8, paged=False)


def large() -> Named:
    """Small parameters keep 32 bits, so these have more elements."""
    random = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (80, 64), "model.layers.0.up.weight": (128, 64)}
    return [
        (name, nn.Parameter(torch.randn(shape, generator=random))) for name, shape in shapes.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 32])
def test_resumed_equals_uninterrupted(bits: int, dtype: torch.dtype) -> None:
    given = config({"layer_decay": 0.9, "weight_decay": 0.1}, schedule={"type": "linear"})

    def made(given: TrainingConfig, named: Named) -> BitsAndBytesAdamW:
        return make(given, named, bits)

    whole = trained(given, dtype=dtype, make=made)
    assert equal(whole, trained(given, dtype=dtype, make=made, interrupted_after=3))


def test_32_bits_compute_what_torch_computes() -> None:
    given, named, other = config({"weight_decay": 0.1}), weights(), weights()
    take_steps(make(given, named, 32), named, range(4))
    take_steps(make_optimizer(given, other), other, range(4))
    for (_, one), (_, two) in zip(named, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_8_bits_stay_near() -> None:
    given, named, other = config(), large(), large()
    optimizer = make(given, named)
    take_steps(optimizer, named, range(4))
    take_steps(make_optimizer(given, other), other, range(4))
    assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}
    for (_, one), (_, two) in zip(named, other, strict=True):
        assert (one - two).abs().max() < 0.01


def test_the_bits_are_those_of_the_group() -> None:
    from workers.trial.optimizer.bitsandbytes import BitsAndBytesAdamW

    given, named = config(), large()
    grouping = Grouping(given, named)
    groups = [*grouping.groups(named[:1], bits=32), *grouping.groups(named[1:], bits=8)]
    optimizer = BitsAndBytesAdamW(groups, betas=(0.9, 0.999), eps=1e-8, paged=False)
    take_steps(optimizer, named, range(1))
    kinds = [optimizer.state[weight]["state1"].dtype for _, weight in named]
    assert kinds == [torch.float32, torch.uint8]


def test_nothing_is_left_in_the_package() -> None:
    from bitsandbytes.functional import GlobalPageManager
    from bitsandbytes.optim import GlobalOptimManager

    named = large()
    take_steps(make(config(), named), named, range(2))
    manager = GlobalOptimManager.get_instance()
    assert not manager.pid2config
    assert not manager.index2config
    assert not manager.module_weight_config_triple
    assert not GlobalPageManager.get_instance().paged_tensors


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses that were freed; host memory stands in for managed memory."""
    from bitsandbytes import functional

    addresses: list[int] = []

    class Runtime:
        def cudaFree(self, address: ctypes.c_void_p) -> int:
            assert address.value is not None
            addresses.append(address.value)
            return 0

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype)

    monkeypatch.setattr(functional, "lib", Runtime())
    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "fill", lambda buffer, value: buffer.fill_(value))
    return addresses


def test_paged_memory_is_freed_with_its_moments(freed: list[int]) -> None:
    from workers.trial.optimizer import bitsandbytes

    moment = bitsandbytes._paged((3, 2), torch.uint8, torch.device("cpu"))
    assert torch.equal(moment, torch.zeros(3, 2, dtype=torch.uint8))
    address = moment.data_ptr()
    assert freed == []
    del moment
    assert freed == [address]


def test_loaded_moments_are_where_new_ones_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    named = large()
    optimizer = make(config(), named)
    take_steps(optimizer, named, range(1))
    asked: list[tuple[int, ...]] = []
    fresh = make(config(), named)
    original: Any = fresh.get_state_buffer

    def counted(p: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        asked.append(tuple(p.shape))
        moment: torch.Tensor = original(p, dtype)
        return moment

    monkeypatch.setattr(fresh, "get_state_buffer", counted)
    fresh.load_state_dict(optimizer.state_dict())
    assert sorted(asked) == sorted([tuple(weight.shape) for _, weight in named] * 2)
    for _, weight in named:
        for key in ("state1", "state2", "absmax1"):
            assert torch.equal(fresh.state[weight][key], optimizer.state[weight][key])
