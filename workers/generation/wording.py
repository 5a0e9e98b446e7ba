"""Texts as words, for comparing them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

WORD = re.compile(r"\w+")
QUOTED = re.compile(
    r"\"[^\"\n]+\"|“[^”\n]+”|„[^“\n]+“|«[^»\n]+»|‘[^’\n]+’|(?<!\w)'[^'\n]+'(?!\w)"  # noqa: RUF001
)
NUMBER = re.compile(r"(?<!\w)\d+(?:[.,:/]\d+)*(?!\w)")
NAME = re.compile(r"\b[^\W\d_]\w*")
NAMES = re.compile(r"\bX(?:[\s'’-]+X)+\b")  # noqa: RUF001 - the typographic apostrophe


def words(text: str) -> list[str]:
    """The words of a text, in lower case and one Unicode form."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def plain(text: str) -> str:
    """A text by its words; one without any by its characters, without white space."""
    return " ".join(words(text)) or "".join(text.split())


def sequences(found: Sequence[str], length: int) -> Iterator[str]:
    """Every run of `length` words; a shorter text is one run, if it has words."""
    for start in range(max(len(found) - length + 1, min(len(found), 1))):
        yield " ".join(found[start : start + length])


def skeleton(text: str) -> str:
    """What is left of a text when quotes, numbers and capitalised words are masked."""
    masked = QUOTED.sub(" X ", unicodedata.normalize("NFKC", text))
    masked = NAME.sub(lambda match: "X" if match[0][0].isupper() else match[0], masked)
    masked = NAMES.sub("X", NUMBER.sub("0", masked))
    return " ".join(masked.casefold().split())


def most_repeated(found: Sequence[str], length: int) -> tuple[str, int]:
    """The run of `length` words that stands most often, and how often."""
    if len(found) < length:
        return "", 0
    return Counter(sequences(found, length)).most_common(1)[0]


def stable_hash(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")
