"""Texts: their normal form for comparing, and signs of a broken encoding."""

from __future__ import annotations

import re
import unicodedata

from workers.data.example import Example

UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))
"""Characters without a shape, width or meaning of their own."""


def folded(text: str) -> str:
    """A text in Unicode form NFKC without case (Unicode Standard, D146)."""
    if text.isascii():
        return text.lower()
    caseless = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caseless).casefold())


def normalised(text: str) -> str:
    """A text for comparing: folded, each run of white space one space, none at the ends.

    Characters that are not seen (zero-width spaces, soft hyphens, byte order
    marks) are left out.
    """
    return " ".join(folded(text).translate(UNSEEN).split())


def joined(example: Example, *, system: bool) -> str:
    """The texts of an example's turns on lines of their own.

    A system prompt is mostly the same in a whole data set: it belongs into the
    search for evaluation items and would make unlike examples alike.
    """
    return "\n".join(turn.content for turn in example.turns if system or turn.role != "system")


def damage(text: str) -> str | None:
    """The first sign that a text was decoded wrongly, in words, or None.

    Signs are replacement characters, lone surrogates, non-characters, control
    characters other than tab and line ends, and UTF-8 that was read as Latin-1
    or Windows-1252.
    """
    match = _DAMAGED.search(text)
    if match is None:
        return _wrong_decoding(text)
    return f"{_kind(match[0])} U+{ord(match[0]):04X} at character {match.start() + 1}"


_DAMAGED = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff\ud800-\udfff]",
)


def _kind(character: str) -> str:
    if character == "\ufffd":
        return "replacement character"
    kinds = {"Cc": "control character", "Cs": "surrogate"}
    return kinds.get(unicodedata.category(character), "non-character")


# What Windows-1252 makes of the bytes that may follow the first one of a
# character in UTF-8. Five of them it leaves undefined: those become control
# characters, which are damage of their own.
_FOLLOWING = re.escape(bytes(range(0x80, 0xC0)).decode("cp1252", errors="ignore"))
_READ = re.compile(
    rf"(?P<start>[\u00c2-\u00df][{_FOLLOWING}]"
    rf"|[\u00e0-\u00ef][{_FOLLOWING}]{{2}}"
    rf"|[\u00f0-\u00f4][{_FOLLOWING}]{{3}})"
    rf"|[\u00c0-\u00ff{_FOLLOWING}]"
)
_PUNCTUATION = frozenset("\u2018\u2019\u201c\u201d\u00bb\u203a\u2026\u2013\u2014")
_AFTER_WORDS = _PUNCTUATION | frozenset("\u00a0\u00ae\u2122")
"""Quotation marks, dashes and the like, which stand after words that end in a
letter such as \u00c9 or \u00c3: `\u201cCAF\u00c9\u201d` is no wrong decoding."""


def _wrong_decoding(text: str) -> str | None:
    """Characters of a text that are UTF-8 when they are encoded again.

    A pair that no language writes is enough (\u00c3 before \u00a9, \u00e2 before \u20ac).
    Other pairs count when there are two of them and every letter beyond ASCII
    is part of one; so `CAF\u00c9\u2026`, `l\u00e0 \u00bb` and `S\u00c3O` are left alone.
    """
    if text.isascii():
        return None
    telling, proper = list[re.Match[str]](), False
    for match in _READ.finditer(text):
        if match["start"] is None or _encoded_again(match[0]) is None:
            proper = True
        elif _never_written(match):
            return _as_read(match)
        elif not _AFTER_WORDS.issuperset(match[0][1:]):
            telling.append(match)
    return None if proper or len(telling) < 2 else _as_read(telling[0])


def _encoded_again(characters: str) -> str | None:
    try:
        return characters.encode("cp1252").decode("utf-8")
    except UnicodeDecodeError:
        return None


def _never_written(match: re.Match[str]) -> bool:
    characters = match[0]
    if characters[0] in "\u00c2\u00c3":
        after_a_letter = match.string[match.start() - 1 : match.start()].isalpha()
        return not (after_a_letter and characters[1] in _PUNCTUATION)
    return characters[0] in "\u00e2\u00ef" or characters.startswith("\u00f0\u0178")


def _as_read(match: re.Match[str]) -> str:
    meant = _encoded_again(match[0])
    return f"{match[0]!r} for {meant!r} at character {match.start() + 1}, UTF-8 read as Latin-1"
