from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from hpo.spec.training.regularisation import Ema
from workers.trial.loop.averages import Averages

DECAY = 0.9
Named = list[tuple[str, nn.Parameter]]


def weights(dtype: torch.dtype = torch.float32) -> Named:
    torch.manual_seed(0)
    shapes = {"embedding": (7, 3), "layer": (5, 7), "bias": (4,)}
    return [(name, nn.Parameter(torch.randn(shape, dtype=dtype))) for name, shape in shapes.items()]


@torch.no_grad()
def change(trainable: Named) -> None:
    for _, weight in trainable:
        weight.add_(torch.randn_like(weight))


def copies(trainable: Named) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainable}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_follow_the_formula(dtype: torch.dtype) -> None:
    trainable = weights(dtype)
    averages = Averages(Ema(decay=DECAY), trainable)
    assert averages.state() == {}
    change(trainable)
    averages.update()
    assert averages.started
    wanted = {name: weight.double() for name, weight in copies(trainable).items()}
    for _ in range(20):
        change(trainable)
        averages.update()
        for name, weight in copies(trainable).items():
            wanted[name] = DECAY * wanted[name] + (1 - DECAY) * weight.double()
    for name, average in averages.state().items():
        assert average.dtype == torch.float32
        torch.testing.assert_close(average, wanted[name].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_raw_weights_come_back_to_the_bit(dtype: torch.dtype) -> None:
    trainable = weights(dtype)
    averages = Averages(Ema(decay=DECAY), trainable)
    averages.update()
    change(trainable)
    averages.update()
    raw, state = copies(trainable), averages.state()
    storage = [weight.data_ptr() for _, weight in trainable]
    with averages.applied():
        for name, weight in trainable:
            assert torch.equal(weight, state[name].to(dtype))
            assert not torch.equal(weight, raw[name])
    with pytest.raises(KeyError), averages.applied():
        raise KeyError
    assert all(torch.equal(weight, raw[name]) for name, weight in trainable)
    assert [weight.data_ptr() for _, weight in trainable] == storage
    assert all(torch.equal(average, state[name]) for name, average in averages.state().items())


def test_nothing_is_applied_before_the_start() -> None:
    trainable = weights()
    raw = copies(trainable)
    with Averages(Ema(decay=DECAY), trainable).applied():
        assert all(torch.equal(weight, raw[name]) for name, weight in trainable)


def test_tied_weights_are_averaged_once() -> None:
    trainable = weights()
    tied: Named = [*trainable, ("head", trainable[0][1])]
    once, twice = Averages(Ema(decay=DECAY), trainable), Averages(Ema(decay=DECAY), tied)
    for _ in range(3):
        once.update()
        twice.update()
        change(trainable)
    assert twice.state().keys() == {"embedding", "layer", "bias"}
    assert all(torch.equal(once.state()[name], twice.state()[name]) for name in once.state())
    raw = copies(tied)
    with twice.applied():
        assert torch.equal(tied[3][1], twice.state()["embedding"])
    assert all(torch.equal(weight, raw[name]) for name, weight in tied)


def test_restored_averages_go_on_exactly() -> None:
    trainable = weights()
    whole = Averages(Ema(decay=DECAY), trainable)
    whole.update()
    change(trainable)
    whole.update()
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    resumed = Averages(Ema(decay=DECAY), trainable)
    resumed.restore(torch.load(file, weights_only=True))
    assert resumed.started
    change(trainable)
    for each in (whole, resumed):
        each.update()
    assert all(torch.equal(whole.state()[name], resumed.state()[name]) for name in whole.state())


def test_a_state_is_a_copy() -> None:
    trainable = weights()
    averages = Averages(Ema(decay=DECAY), trainable)
    averages.update()
    state = averages.state()
    kept = {name: average.clone() for name, average in state.items()}
    other = Averages(Ema(decay=DECAY), trainable)
    other.restore(state)
    change(trainable)
    for each in (averages, other):
        each.update()
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_an_empty_state_is_restored_as_not_started() -> None:
    averages = Averages(Ema(decay=DECAY), weights())
    averages.update()
    averages.restore({})
    assert not averages.started


def test_averages_of_other_weights_are_refused() -> None:
    averages = Averages(Ema(decay=DECAY), weights())
    with pytest.raises(ValueError, match="another model"):
        averages.restore({"other": torch.zeros(3)})
