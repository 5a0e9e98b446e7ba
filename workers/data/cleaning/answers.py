"""The final answer of a worked solution, and whether two answers are the same."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

HASHES = "####"
"""Stands before the final answer in GSM8K (arXiv:2110.14168)."""
OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"

# A box, an escaped character (so that `\{` opens nothing) or a brace.
_BRACES = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)
_MATHS_OPENERS = re.compile(r"(?:\$\$?|\\\(|\\\[)\s*\Z")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_DECORATION = re.compile(r"\\[$%,! ]|[$%\s]|(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d{1,3})?)(?:/(\d+))?", re.IGNORECASE)
# A minus after a digit, a letter or a closing bracket is a subtraction or a dash.
_LAST_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer at `start` to `end` of a text, its marks included."""

    start: int
    end: int
    answer: str


def final_answer(text: str) -> tuple[str, str] | None:
    r"""What stands before the final answer, and the final answer.

    Understood are `####` on the last line, `\boxed{...}` with balanced braces
    and `<answer>...</answer>`; the last of them counts. A `####` with lines
    after it is a heading. None where there is no answer or an empty one.
    """
    found = [part for part in (_hashes(text), _tags(text), _box(text)) if part and part.answer]
    if not found:
        return None
    # Of two that end together the outer one: `<answer>\boxed{5}</answer>`.
    last = max(found, key=lambda part: (part.end, -part.start))
    return _without_opener(text[: last.start]), _unboxed(last.answer)


def _hashes(text: str) -> _Found | None:
    before, mark, after = text.rstrip().rpartition(HASHES)
    if not mark or "\n" in after.strip() or before.endswith("#"):
        return None
    return _Found(len(before), len(text), after.strip())


def _tags(text: str) -> _Found | None:
    end = text.rfind(CLOSE_TAG)
    start = text.rfind(OPEN_TAG, 0, max(end, 0))
    if start < 0:
        return None
    return _Found(start, end + len(CLOSE_TAG), text[start + len(OPEN_TAG) : end].strip())


def _box(text: str) -> _Found | None:
    """The box that closes last; of nested ones that is the outermost."""
    last, opened = None, list[tuple[int, int] | None]()
    for match in _BRACES.finditer(text) if "\\boxed{" in text else ():
        if match[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                last = _Found(box[0], match.end(), text[box[1] : match.start()].strip())
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(None if match[0] == "{" else match.span())
    return last


def _without_opener(text: str) -> str:
    """A text without the dollar that opened the formula of a box."""
    return _MATHS_OPENERS.sub("", text).rstrip()


def _unboxed(answer: str) -> str:
    box = _box(answer)
    whole = box is not None and (box.start, box.end) == (0, len(answer))
    return box.answer if box is not None and whole and box.answer else answer


def as_number(text: str) -> float | None:
    r"""The number that a text is, or None.

    Understood are signs, thousands separators, decimals, exponents, fractions
    (`3/4`, `\frac{3}{4}`), and dollar and percent signs, which are passed over.
    """
    plain = _DECORATION.sub("", _FRACTION.sub(r"\1\2/\3", text)).rstrip(".")
    match = _NUMBER.fullmatch(plain.replace("\u2212", "-"))
    if match is None or not int(match[2] or 1):
        return None
    value = float(match[1]) / float(match[2] or 1)
    return value if math.isfinite(value) else None


def last_number(text: str) -> str | None:
    """The last number that is written in a text, as it is written."""
    found = _LAST_NUMBER.findall(text)
    return found[-1].rstrip(",") if found else None


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are equal as texts, but for case and space, or as numbers.

    Whole numbers must be equal; others may differ by a millionth.
    """
    if "".join(one.split()).casefold() == "".join(other.split()).casefold():
        return True
    first, second = as_number(one), as_number(other)
    if first is None or second is None:
        return False
    if first.is_integer() and second.is_integer():
        return first == second
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9)
