"""What of evaluation items is looked for: text that is theirs, not that of many of them.

The rules and the numbers are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpo.spec.cleaning import Decontamination
from workers.data.cleaning.words import Hashes, Ragged, ngrams, word_hashes
from workers.data.example import Example

LEAST_WORDS = 5
"""A prompt with fewer words says nothing about its item."""
COMMON = 10
COMMON_SHARE = 0.02
"""A sequence is an item's own when at most COMMON items hold it, and at most this
share of them; one item always may."""

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Part(NamedTuple):
    """A prompt or a completion that is looked for."""

    length: int
    """Words of each of its sequences."""
    needed: float
    """Share of them that a text must hold."""
    grams: Hashes
    """Its different sequences, sorted."""


@dataclass(frozen=True)
class Sought:
    """Sequences of words by which items are found, in parts: prompts and completions.

    An item's *own text* is what is left of its prompt and its completion
    without text that many items share: sequences of `words` words that more
    than COMMON items or COMMON_SHARE of them hold, and words with which so
    many prompts, or so many completions, begin or end.

    - Where own text has `words` words in a row or more, its sequences of
      `words` words make the part, and the share `overlap` of them is needed.
    - Else a prompt of LEAST_WORDS or more is looked for as a whole: all its
      sequences that are not shared are needed, and it has at least one. A
      prompt of fewer than `words` words is a single sequence, which no other
      item may hold.
    - Else there is no part. So a completion of fewer than `words` words never
      is one.

    Items with the same prompt count as one that was answered several times,
    unless they are more than COMMON or more than half of all: then the prompt
    is no more than an instruction. Equal items always count as one.
    """

    owners: Numbers
    """The item of each part, its first where several have it."""
    parts: list[Part]
    """Different ones, in the order of the items."""
    not_compared: int
    """Items without a part."""

    @staticmethod
    def of(items: Sequence[Example], spec: Decontamination) -> Sought:
        """What is looked for of these items."""
        texts = [text for item in items for text in (item.prompt, item.completion)]
        found = dict(_parts(word_hashes(texts), spec))
        firsts: dict[tuple[int, float, bytes], int] = {}
        for row, part in found.items():
            firsts.setdefault((part.length, part.needed, part.grams.tobytes()), row)
        rows = list(firsts.values())
        return Sought(
            owners=np.array(rows, np.int64) // 2,
            parts=[found[row] for row in rows],
            not_compared=len(items) - len({row // 2 for row in found}),
        )


def _parts(words: Ragged, spec: Decontamination) -> Iterator[tuple[int, Part]]:
    """The texts that are looked for, each with its row.

    The rows of `words` are prompt and completion of the first item, of the
    second, and so on.
    """
    holders = np.repeat(_holders(words), 2)
    sequences = _Sequences.of(words, holders, spec.words)
    alone = _alone(words, holders, spec.words)
    for row, length in enumerate(words.lengths.tolist()):
        if length >= spec.words and len(own := sequences.chosen(row, sequences.own)):
            yield row, Part(spec.words, spec.overlap, own)
        elif row % 2 or length < LEAST_WORDS:
            continue
        elif length < spec.words:
            if alone[row]:
                yield row, Part(length, 1.0, sequences.grams.row(row))
        elif len(rare := sequences.chosen(row, sequences.rare)):
            yield row, Part(spec.words, 1.0, rare)


@dataclass(frozen=True)
class _Sequences:
    """The sequences of all texts, and what is known of each."""

    grams: Ragged
    rare: Flags
    """Whether few items hold it."""
    own: Flags
    """Whether no word of it is part of text that many items share."""

    @staticmethod
    def of(words: Ragged, holders: Numbers, n: int) -> _Sequences:
        grams = ngrams(words, n)
        rows = np.repeat(np.arange(len(words)), grams.lengths)
        firsts = np.arange(len(rows)) - grams.offsets[rows] + words.offsets[rows]
        ends = firsts + np.minimum(words.lengths[rows], n)
        limit = _limit(holders)
        rare = _spread(grams.values, holders[rows]) <= limit
        shared = _covered(firsts[~rare], ends[~rare], len(words.values))
        for side in (0, 1):
            texts = np.arange(side, len(words), 2)
            for backwards in (False, True):
                shared |= _alike(words, texts, holders, limit, backwards=backwards)
        before = np.concatenate([[0], np.cumsum(shared)])
        return _Sequences(grams, rare, rare & (before[ends] == before[firsts]))

    def chosen(self, row: int, flags: Flags) -> Hashes:
        """The different sequences of a text that are flagged, sorted."""
        span = slice(self.grams.offsets[row], self.grams.offsets[row + 1])
        return np.unique(self.grams.values[span][flags[span]])


def _holders(words: Ragged) -> Numbers:
    """A number for each item, the same for those that count as one."""
    sides = [[words.row(row).tobytes() for row in range(side, len(words), 2)] for side in (0, 1)]
    items = list(zip(*sides, strict=True))
    answers = Counter(prompt for prompt, _ in set(items))
    most = max(1, min(COMMON, answers.total() // 2))
    keys = [
        (prompt, None if prompt and answers[prompt] <= most else completion)
        for prompt, completion in items
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)


def _limit(holders: Numbers) -> int:
    """How many items may hold what is an item's own."""
    return max(1, min(COMMON, int(COMMON_SHARE * len(np.unique(holders)))))


def _spread(values: NDArray[np.generic], holders: Numbers) -> Numbers:
    """For each value the number of different holders that it has."""
    different, places = np.unique(values, return_inverse=True)
    width = int(holders.max(initial=0)) + 1
    pairs = np.unique(places * width + holders)
    return np.bincount(pairs // width, minlength=len(different))[places]


def _alone(words: Ragged, holders: Numbers, n: int) -> Flags:
    """Which texts of LEAST_WORDS to `n` - 1 words stand in no other item, not even as a part."""
    alone = np.zeros(len(words), bool)
    short = (words.lengths >= LEAST_WORDS) & (words.lengths < n)
    for length in np.unique(words.lengths[short]).tolist():
        grams = ngrams(words, length)
        counts = _spread(grams.values, np.repeat(holders, grams.lengths))
        texts = np.flatnonzero(words.lengths == length)
        alone[texts] = counts[grams.offsets[texts]] == 1
    return alone


def _covered(firsts: Numbers, ends: Numbers, length: int) -> Flags:
    """Which of `length` words lie in one of these spans."""
    steps = np.bincount(firsts, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
    covered: Flags = np.cumsum(steps)[:length] > 0
    return covered


def _alike(
    words: Ragged, texts: Numbers, holders: Numbers, limit: int, *, backwards: bool
) -> Flags:
    """Words with which the texts of more than `limit` holders begin, or end, alike."""
    marked = np.zeros(len(words.values), bool)
    different, word = np.unique(words.values, return_inverse=True)
    beginning = np.zeros(len(words), np.int64)
    depth = 0
    while len(texts := texts[words.lengths[texts] > depth]):
        last = words.offsets[texts + 1] - 1
        places = last - depth if backwards else words.offsets[texts] + depth
        pairs = beginning[texts] * len(different) + word[places]
        beginning[texts] = np.unique(pairs, return_inverse=True)[1]
        many = _spread(pairs, holders[texts]) > limit
        marked[places[many]] = True
        texts = texts[many]
        depth += 1
    return marked
