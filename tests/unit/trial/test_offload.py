import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_lab import config, equal, set_gradients, take_steps, trained, weights

from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.offload import OffloadedAdamW, offloaded

SHARES = [0.3, 0.5, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", SHARES)
def test_offloaded_equals_plain_to_the_bit(share: float, dtype: torch.dtype) -> None:
    spec = {"weight_decay": 0.1, "layer_decay": 0.9}
    schedule = {"type": "cosine", "warmup_steps": 2}
    plain = trained(config(spec, schedule=schedule), dtype=dtype)
    moved = trained(config({**spec, "offload": share}, schedule=schedule), dtype=dtype)
    assert equal(plain, moved)


@pytest.mark.parametrize("share", SHARES)
def test_the_share_of_moments_lives_apart_from_the_weights(share: float) -> None:
    named = weights()
    optimizer = make_optimizer(config({"offload": share}), named)
    assert isinstance(optimizer, OffloadedAdamW)
    take_steps(optimizer, named, range(1))
    ours = {id(weight) for _, weight in named}
    *_, host = optimizer._parts()
    assert not ours & {id(weight) for weight in host.state}
    elements = sum(weight.numel() for _, weight in named)
    held = sum(state["exp_avg"].numel() for state in host.state.values())
    assert share * elements <= held < share * elements + 48


@pytest.mark.parametrize("share", SHARES)
def test_weights_that_others_write_are_not_stale(share: float) -> None:
    named, other = weights(), weights()
    moved, plain = (
        make_optimizer(config({"offload": share}), named),
        make_optimizer(config(), other),
    )
    for step in range(3):
        for optimizer, kept in ((moved, named), (plain, other)):
            take_steps(optimizer, kept, [step])
            with torch.no_grad():
                for _, weight in kept:
                    weight.mul_(0.5)
    assert equal([weight for _, weight in named], [weight for _, weight in other])


def test_a_state_of_another_share_does_not_fit() -> None:
    named = weights()
    half = make_optimizer(config({"offload": 0.5}), named)
    set_gradients(named, 0)
    half.step()
    with pytest.raises(ValueError, match="parameter group"):
        make_optimizer(config({"offload": 1.0}), named).load_state_dict(half.state_dict())


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    share=st.floats(0, 1, exclude_min=True),
)
def test_whole_parameters_are_chosen_up_to_the_share(sizes: list[int], share: float) -> None:
    parameters = [torch.empty(size) for size in sizes]
    chosen = offloaded(parameters, share)
    elements = [one.numel() for one in chosen]
    assert len({id(one) for one in chosen}) == len(chosen)
    assert sum(elements) >= math.ceil(share * sum(sizes)) > sum(elements) - max(elements)
