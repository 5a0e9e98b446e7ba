"""What the engine is asked for: how many tokens, in which places, with which seeds."""

from __future__ import annotations

from hpo.spec.tasks import Decoding
from workers.evaluation.engines.writing import Writing, asks

PROMPTS = [[1] * 5, [1] * 9, [1] * 10, [1] * 30]


def _writing(**decoding: object) -> Writing:
    return Writing(PROMPTS, 4, Decoding.model_validate(decoding))


def test_prompts_get_the_room_that_is_left() -> None:
    found = list(asks(_writing(), window=10))
    assert [(ask.item, ask.most) for ask in found] == [(0, 4), (1, 1)]
    assert all(ask.seed is None for ask in found)


def test_every_checkpoint_draws_alike_and_every_sample_otherwise() -> None:
    sampled = list(asks(_writing(temperature=1, samples=3, seed=7), window=100, checkpoints=2))
    assert len(sampled) == len({ask.place for ask in sampled}) == 4 * 3 * 2
    seeds = {(ask.item, ask.sample): ask.seed for ask in sampled}
    assert all(seeds[ask.item, ask.sample] == ask.seed for ask in sampled)
    assert len(set(seeds.values())) == 12


def test_seeds_are_those_of_the_item_and_the_seed_alone() -> None:
    few = {ask.place: ask.seed for ask in asks(_writing(temperature=1), window=10)}
    more = asks(_writing(temperature=0.5, samples=2, stop=["."]), window=100)
    assert few.items() <= {ask.place: ask.seed for ask in more}.items()
    other = {ask.place: ask.seed for ask in asks(_writing(temperature=1, seed=1), window=10)}
    assert not set(few.values()) & set(other.values())
