from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.preparing.splits import among, held_out, repeats

Hashes = npt.NDArray[np.void]


def identities(names: list[str]) -> Hashes:
    digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names]
    return np.frombuffer(b"".join(digests), "V16")


def names_of(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


def everyone(identity: Hashes) -> npt.NDArray[np.bool_]:
    return np.ones(len(identity), np.bool_)


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5, 0.99])
def test_a_fraction_is_held_out_to_the_example(fraction: float) -> None:
    identity = identities(names_of(2000))
    out = held_out(identity, everyone(identity), fraction, seed=42)
    assert out.sum() == round(fraction * 2000)


def test_only_living_examples_are_held_out_and_counted() -> None:
    identity = identities(names_of(1000))
    alive = np.arange(1000) % 2 == 0
    out = held_out(identity, alive, 0.1, seed=1)
    assert out.sum() == 50
    assert not (out & ~alive).any()


def test_the_seed_draws() -> None:
    identity = identities(names_of(500))
    first, again, other = (held_out(identity, everyone(identity), 0.2, seed) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_sets_of_one_seed_are_nested() -> None:
    identity = identities(names_of(500))
    small, large = (held_out(identity, everyone(identity), share, 3) for share in (0.1, 0.3))
    assert not (small & ~large).any()


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=120),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_the_same_prompt_is_never_on_both_sides(
    prompts: list[int], fraction: float, seed: int
) -> None:
    identity = identities([str(prompt) for prompt in prompts])
    out = held_out(identity, everyone(identity), fraction, seed)
    held = {prompt for prompt, chosen in zip(prompts, out, strict=True) if chosen}
    rest = {prompt for prompt, chosen in zip(prompts, out, strict=True) if not chosen}
    assert not held & rest
    largest = max(prompts.count(prompt) for prompt in prompts)
    assert out.sum() <= round(fraction * len(prompts)) + largest


@given(st.permutations(range(30)), st.floats(0.05, 0.9))
def test_who_is_held_out_does_not_depend_on_the_order(order: list[int], fraction: float) -> None:
    names = names_of(30)
    identity = identities(names)
    shuffled = identities([names[index] for index in order])
    chosen = {
        names[index]
        for index in np.flatnonzero(held_out(identity, everyone(identity), fraction, 0))
    }
    again = {
        names[order[index]]
        for index in np.flatnonzero(held_out(shuffled, everyone(shuffled), fraction, 0))
    }
    assert chosen == again


def test_among_finds_what_occurs_in_any_of_the_others() -> None:
    identity = identities(["a", "b", "c", "b"])
    found = among(identity, [identities(["b"]), identities(["x", "c"])])
    assert found.tolist() == [False, True, True, True]
    assert not among(identity, []).any()
    assert not among(identities([]), [identity]).any()


def test_weights_repeat_whole_examples_and_draw_the_rest() -> None:
    origin = np.array([0] * 10 + [1] * 10 + [2] * 10, np.int32)
    times = np.bincount(repeats(origin, [1.0, 2.5, 0.3]), minlength=30)
    assert times[:10].tolist() == [1] * 10
    assert sorted(times[10:20]) == [2] * 5 + [3] * 5
    assert sorted(times[20:]) == [0] * 7 + [1] * 3
    assert (repeats(origin, [1.0, 2.5, 0.3]) == repeats(origin, [1.0, 2.5, 0.3])).all()
