"""The index of evaluation items against its definition with plain sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.cleaning import Decontamination
from workers.data.cleaning import own_text
from workers.data.cleaning.contamination import Hit, ItemIndex
from workers.data.example import Example

Words = tuple[str, ...]


def runs(words: Words, n: int) -> list[Words]:
    return [words[start : start + n] for start in range(len(words) - n + 1)]


def begins(side: int, words: Words, item: tuple[Words, Words]) -> bool:
    return item[side][: len(words)] == words


def ends(side: int, words: Words, item: tuple[Words, Words]) -> bool:
    return item[side][-len(words) :] == words


class PlainIndex:
    """The definition with plain sets of words, item by item."""

    def __init__(self, items: list[tuple[Words, Words]], n: int, overlap: float) -> None:
        self.items, self.n, self.overlap = items, n, overlap
        different = set(items)
        self.answers = {p: sum(prompt == p for prompt, _ in different) for p, _ in items}
        self.most = max(1, min(own_text.COMMON, len(different) // 2))
        self.holders = [self.holder(item) for item in items]
        share = int(own_text.COMMON_SHARE * len(set(self.holders)))
        self.limit = max(1, min(own_text.COMMON, share))

    def holder(self, item: tuple[Words, Words]) -> tuple[Words, Words | None]:
        one = item[0] and self.answers[item[0]] <= self.most
        return item[0], None if one else item[1]

    def is_shared(self, holds: Callable[[tuple[Words, Words]], bool]) -> bool:
        held = {
            holder for holder, item in zip(self.holders, self.items, strict=True) if holds(item)
        }
        return len(held) > self.limit

    def in_many(self, run: Words) -> bool:
        return self.is_shared(lambda item: any(run in runs(text, len(run)) for text in item))

    def shared_places(self, text: Words, side: int) -> set[int]:
        places: set[int] = set()
        for start, run in enumerate(runs(text, self.n)):
            if self.in_many(run):
                places |= set(range(start, start + self.n))
        for length in range(1, len(text) + 1):
            head, tail = text[:length], text[-length:]
            if self.is_shared(partial(begins, side, head)):
                places |= set(range(length))
            if self.is_shared(partial(ends, side, tail)):
                places |= set(range(len(text) - length, len(text)))
        return places

    def needed(self, text: Words, side: int) -> tuple[float, set[Words]] | None:
        shared = self.shared_places(text, side)
        own = {
            run
            for start, run in enumerate(runs(text, self.n))
            if not shared & set(range(start, start + self.n))
        }
        if own:
            return self.overlap, own
        if side == 1 or len(text) < own_text.LEAST_WORDS:
            return None
        if len(text) < self.n:
            holders = {
                holder
                for holder, item in zip(self.holders, self.items, strict=True)
                if any(text in runs(other, len(text)) for other in item)
            }
            return (1.0, {text}) if len(holders) == 1 else None
        rare = {run for run in runs(text, self.n) if not self.in_many(run)}
        return (1.0, rare) if rare else None

    def hit(self, text: Words) -> Hit | None:
        best: Hit | None = None
        for number, item in enumerate(self.items):
            for side in (0, 1):
                needed = self.needed(item[side], side)
                if needed is None:
                    continue
                share = len([run for run in needed[1] if run in runs(text, len(run))])
                part = share / len(needed[1])
                if part >= needed[0] and (best is None or part > best.share):
                    best = Hit(number, part)
        return best

    @property
    def not_compared(self) -> int:
        return sum(
            all(self.needed(item[side], side) is None for side in (0, 1)) for item in self.items
        )


WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(tuple)
ITEMS = st.lists(st.tuples(WORDS, WORDS), max_size=6).flatmap(
    lambda items: st.lists(st.sampled_from(items), max_size=9) if items else st.just([])
)


@given(
    ITEMS,
    WORDS,
    st.integers(2, 7),
    st.sampled_from([0.3, 0.5, 1.0]),
    st.sampled_from([0.02, 0.5]),
)
def test_hits_are_those_of_plain_sets(
    items: list[tuple[Words, Words]], text: Words, words: int, overlap: float, share: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # So that several of so few items may hold what is one's own.
        patch.setattr(own_text, "COMMON_SHARE", share)
        examples = [Example.pair(*map(" ".join, item)) for item in items]
        found = ItemIndex(examples, Decontamination(words=words, overlap=overlap))
        plain = PlainIndex(items, words, overlap)
        texts = [text, *(prompt + text for prompt, _ in items)]
        assert found.hits([" ".join(text) for text in texts]) == [plain.hit(t) for t in texts]
        assert found.not_compared == plain.not_compared
