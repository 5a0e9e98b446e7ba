"""Equal and nearly equal examples.

Equal ones are found by a hash of their normalised texts, nearly equal ones by
MinHash signatures of their word sequences (Broder, 1997), which
`workers.data.cleaning.similar` compares.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from hpo.spec.cleaning import NearDuplicates
from workers.data.cleaning import similar
from workers.data.cleaning.fences import standardised
from workers.data.cleaning.text import normalised
from workers.data.cleaning.words import WordMemo, ngrams, word_hashes
from workers.data.example import Example, Turn

HASH_BYTES = 16
SEED = 1
"""Of the permutations; signatures of different seeds cannot be compared."""
_PIECE = 4096
"""Word sequences that are permuted at once: 2 MB for 128 permutations."""


def exact_hash(example: Example) -> bytes:
    """16 bytes that are equal for equal examples, but for case, space and Unicode form.

    Besides the turns these are the fields and the few-shot pairs, which stand
    in the prompt, too. The normal form holds no control characters that could
    be taken for the separators.
    """
    shots = tuple(Turn("user", text) for pair in example.shots for text in pair)
    return _hash((*example.turns, *_fields(example), *shots))


def identity_hash(example: Example, same: Literal["prompt", "example"]) -> bytes:
    """16 bytes that are equal for examples that may not lie in two sets.

    With `prompt` these are the turns of user and assistant before the answer
    and the fields that the layout names, with `example` everything. A plain
    text has no prompt and is taken whole. Code blocks are compared as they are
    after cleaning, whether a set was cleaned or not.
    """
    if same == "example":
        return exact_hash(_with_standard_code(example))
    prompt = tuple(turn for turn in example.turns[:-1] if turn.role != "system")
    if not prompt:
        return exact_hash(_with_standard_code(example))
    return _hash((*map(_standard, prompt), *_fields(example)))


def _fields(example: Example) -> tuple[Turn, ...]:
    return tuple(Turn("user", f"{name}={text}") for name, text in sorted(example.fields.items()))


def _with_standard_code(example: Example) -> Example:
    return replace(example, turns=tuple(map(_standard, example.turns)))


def _standard(turn: Turn) -> Turn:
    if "```" not in turn.content and "~~~" not in turn.content:
        return turn
    return Turn(turn.role, standardised(turn.content))


def _hash(turns: Sequence[Turn]) -> bytes:
    texts = "\x1e".join(f"{turn.role}\x1f{normalised(turn.content)}" for turn in turns)
    return hashlib.blake2b(texts.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def first_of_equals(hashes: NDArray[Any]) -> NDArray[np.int64]:
    """For each row the index of the first one that is equal to it, -1 for that one.

    `hashes` is of n rows of 8, 16, ... bytes: dtype V16, uint8[n, 16], uint64[n].
    """
    found = np.full(len(hashes), -1, np.int64)
    if not len(hashes):
        return found
    keys = np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), -1)
    # Stable, so the first of a run of equals is the first in order.
    order = np.lexsort(keys.T)
    starts = np.ones(len(keys), bool)
    starts[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    firsts = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    found[order] = np.where(starts, -1, firsts)
    return found


def signatures(
    texts: Sequence[str], spec: NearDuplicates, memo: WordMemo | None = None
) -> NDArray[np.uint32]:
    """MinHash signatures of the texts' word sequences, uint32[n, permutations].

    A text without words has the largest number everywhere. The signature of a
    text does not depend on the texts beside it.
    """
    grams = ngrams(word_hashes(texts, memo), spec.words)
    # The high half: the low bits of a polynomial hash know little of the order.
    values = (grams.values >> np.uint64(32)).tolist()
    rows, pieces = _pieces(grams.offsets)
    minhashes = MinHash.generator(
        (values[piece] for piece in pieces),
        num_perm=spec.permutations,
        seed=SEED,
        scheme="affine32",
        hashfunc=operator.index,
    )
    found = np.full((len(texts), spec.permutations), np.iinfo(np.uint32).max, np.uint32)
    for row, minhash in zip(rows, minhashes, strict=True):
        np.minimum(found[row], minhash.hashvalues, out=found[row])
    return found


def _pieces(offsets: NDArray[np.int64]) -> tuple[list[int], list[slice]]:
    """Slices of bounded length, and the row of each; a long text has several."""
    bounds = [int(offset) for offset in offsets]
    rows, pieces = list[int](), list[slice]()
    for row, (start, end) in enumerate(itertools.pairwise(bounds)):
        for begin in range(start, end, _PIECE):
            rows.append(row)
            pieces.append(slice(begin, min(begin + _PIECE, end)))
    return rows, pieces


def near_duplicates(
    signatures: NDArray[np.uint32], candidates: NDArray[np.bool_], spec: NearDuplicates
) -> NDArray[np.int64]:
    """For each row the first kept row before it that it nearly equals, or -1, int64[n].

    The first of similar rows is kept; rows that are no `candidates`, and those
    without words, are never matched and match nothing. Equal signatures are
    settled first, so that a million copies are compared once each; how the
    others are compared says `similar.earlier_kept`.
    """
    rows = np.flatnonzero(candidates & _with_words(signatures))
    first = _first_of_equal_signatures(signatures, rows)
    distinct, copies = rows[first < 0], rows[first >= 0]
    found = np.full(len(signatures), -1, np.int64)
    found[distinct] = similar.earlier_kept(signatures, distinct, spec.threshold)
    originals = rows[first[first >= 0]]
    found[copies] = np.where(found[originals] < 0, originals, found[originals])
    return found


def _with_words(signatures: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether a signature is that of a text with words, bool[n]."""
    empty = np.iinfo(np.uint32).max
    parts = similar.pieces(len(signatures), _PIECE)
    return np.concatenate(
        [np.zeros(0, bool), *((signatures[part] != empty).any(axis=1) for part in parts)]
    )


def _first_of_equal_signatures(
    signatures: NDArray[np.uint32], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Positions in `rows` of the first row with the same signature, -1 for that one."""
    first = first_of_equals(similar.keys(signatures, rows, slice(None)))
    later = np.flatnonzero(first >= 0)
    places = signatures.shape[1]
    equal = similar.alike(signatures, rows[later], rows[first[later]], places)
    # Equal hashes of unequal signatures; they are compared like all others.
    first[later[~equal]] = -1
    return first
