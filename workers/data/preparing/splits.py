"""Which examples go to which set: by fraction, and never to two of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.uint64]


def held_out(identity: Hashes, alive: Flags, fraction: float, seed: int) -> Flags:
    """Examples that a fraction holds out of a set.

    Examples with the same identity go together, so at most one such group
    more than `fraction` of the living examples is held out. Who is held out
    depends on an identity and the seed, not on the order of the rows.
    """
    groups, members = _groups(identity[alive])
    sizes = np.bincount(members, minlength=len(groups))
    order = np.argsort(_places(groups, seed), kind="stable")
    wanted = round(fraction * int(alive.sum()))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(groups), np.bool_)
    chosen[order[before < wanted]] = True
    out = np.zeros(len(alive), np.bool_)
    out[np.flatnonzero(alive)] = chosen[members]
    return out


def among(identity: Hashes, others: Iterable[Hashes]) -> Flags:
    """Whether each identity occurs in one of the others."""
    pool = np.concatenate([np.empty(0, identity.dtype), *others])
    return np.isin(_numbers(identity), _numbers(pool))


def repeats(
    origin: npt.NDArray[np.int32], weights: list[float], seed: int = 0
) -> npt.NDArray[np.int64]:
    """Indices of examples as often as their source's weight says, in order.

    A weight's whole part repeats each of them; its fraction takes that share
    of them once more, drawn by the seed.
    """
    times = np.zeros(len(origin), np.int64)
    random = np.random.default_rng(seed)
    for index, weight in enumerate(weights):
        mine = np.flatnonzero(origin == index)
        whole = int(weight)
        times[mine] = whole
        more = round((weight - whole) * len(mine))
        times[random.permutation(mine)[:more]] += 1
    return np.repeat(np.arange(len(origin)), times)


def _groups(identity: Hashes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The different identities, and the index among them of each."""
    return np.unique(_numbers(identity), return_inverse=True)


def _numbers(identity: Hashes) -> Hashes:
    """The same hashes in a type that numpy can sort."""
    return identity.view("S16") if len(identity) else np.empty(0, "S16")


def _places(groups: Hashes, seed: int) -> Places:
    """A place in a random order for each group, from its hash and the seed alone."""
    padded = np.frombuffer(groups.astype("S16").tobytes(), np.uint64).reshape(-1, 2)
    mixed = padded[:, 0] ^ _mix(padded[:, 1] + np.uint64(seed))
    return _mix(mixed + np.uint64(seed))


def _mix(value: Places) -> Places:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): spreads every bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
