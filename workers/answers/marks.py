r"""Where a text states its final answer: `####`, `\boxed{}`, `<answer>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

HASHES = "####"
"""Stands before the final answer in GSM8K (arXiv:2110.14168)."""
OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"

Mark = Literal["hashes", "boxed", "tag"]

# A box, an escaped character (so that `\{` opens nothing) or a brace.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,2}\{|\\.|[{}]", re.DOTALL)
_MATHS_OPENERS = re.compile(r"(?:\$\$?|\\\(|\\\[)\s*\Z")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<answer>[^\n#]*)")

# A heading begins with neither.
_NUMBER_OR_FORMULA = re.compile(r"[-+\u2212(]?\s?(?:[$\u20ac\u00a3\u00a5\\]|\.?\d)")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer at `start` to `end` of a text, its marks included."""

    start: int
    end: int
    answer: str


def final_answer(text: str) -> tuple[str, str] | None:
    r"""What stands before the final answer, and the final answer.

    Understood are `####` on the last line, `\boxed{...}` with balanced braces
    and `<answer>...</answer>`; the last of them counts. A `####` with lines
    after it is a heading, as in data written by people: a model's answer that
    goes on after it is read by `marked_answer`. None where there is no answer
    or an empty one.
    """
    last = _last([_hashes_at_the_end(text), _tag(text), _box(text)])
    if last is None:
        return None
    return _without_opener(text[: last.start]), _unwrapped(last.answer)


def marked_answer(text: str, mark: Mark | None = None) -> str | None:
    """The final answer behind a mark, the last such; None where it is missing or empty.

    A `####` counts wherever it stands, for models do not stop there. Without
    `mark` any of the three does, and whichever ends last: `####` then only
    where nothing follows its line, or where its line begins with a number or
    a formula, so that headings are none.
    """
    match mark:
        case "hashes":
            found = _hashes(text)
        case "boxed":
            found = _box(text)
        case "tag":
            found = _tag(text)
        case None:
            hashes = _hashes_at_the_end(text)
            if hashes is None or not hashes.answer:
                # An answer may be cut right behind a further mark.
                hashes = _hashes(text, headings=False)
            found = _last([hashes, _tag(text), _box(text)])
    return _unwrapped(found.answer) if found is not None and found.answer else None


def _last(parts: list[Found | None]) -> Found | None:
    """Of two that end together the outer one: `<answer>\\boxed{5}</answer>`."""
    found = [part for part in parts if part is not None and part.answer]
    return max(found, key=lambda part: (part.end, -part.start), default=None)


def _hashes_at_the_end(text: str) -> Found | None:
    before, mark, after = text.rstrip().rpartition(HASHES)
    if not mark or "\n" in after or before.endswith("#"):
        return None
    return Found(len(before), len(text), after.strip())


def _hashes(text: str, *, headings: bool = True) -> Found | None:
    """The last `####` with an answer on its line."""
    last = None
    for match in _HASHES.finditer(text):
        answer = match["answer"].strip()
        if answer and (headings or _NUMBER_OR_FORMULA.match(answer)):
            last = Found(match.start(), match.end(), answer)
    return last


def _tag(text: str) -> Found | None:
    end = text.rfind(CLOSE_TAG)
    start = text.rfind(OPEN_TAG, 0, max(end, 0))
    if start < 0:
        return None
    return Found(start, end + len(CLOSE_TAG), text[start + len(OPEN_TAG) : end].strip())


def _box(text: str) -> Found | None:
    """The box that closes last; of nested ones that is the outermost."""
    last, opened = None, list[tuple[int, int] | None]()
    for match in _BRACES.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if match[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                last = Found(box[0], match.end(), text[box[1] : match.start()].strip())
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(None if match[0] == "{" else match.span())
    return last


def _without_opener(text: str) -> str:
    """A text without the dollar that opened the formula of a box."""
    return _MATHS_OPENERS.sub("", text).rstrip()


def _unwrapped(answer: str) -> str:
    """An answer without marks that wrap it as a whole."""
    bare = answer.removeprefix("$").removesuffix("$").strip()
    for found in (_box(bare), _tag(bare)):
        if found is not None and (found.start, found.end) == (0, len(bare)) and found.answer:
            return found.answer
    return answer
