r"""Numbers as they are written in texts, exactly.

Understood are signs (the Unicode minus too), thousands separators (`1,234`,
`1{,}234`), decimals (`.5`), exponents (`1e3`, `1.5 \times 10^3`), fractions
(`3/4`, `\frac{3}{4}`), mixed numbers (`1 1/2`), and words of scale
(`2 million`). Currency is passed over, and so are percent signs: `50%` is 50.
Numbers of more than 400 digits or beyond 1e308 are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from workers.answers.marks import HASHES
from workers.answers.scan import last_match

MOST_DIGITS = 400
MOST_EXPONENT = 308
TOLERANCE = Fraction(1, 10**6)
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}

_CURRENCY = "[$\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd]"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
_REST = (
    r"(?:(?:[eE](?P<exponent>[-+]?\d{1,3})"
    r"|\s?(?:\\times|\\cdot|[*x\u00d7\u00b7])\s?10\^\{?(?P<power>[-+]?\d{1,3})\}?)(?![\w]|\.\d))?"
    r"(?:/(?P<denominator>\d+)(?![\d]|\.\d))?"
    rf"(?:\s(?P<scale>{'|'.join(SCALES)})\b)?"
    r"(?P<percent>\s?(?:%|per\s?cent\b))?"
)
_CORE = rf"(?:(?P<whole>\d{{1,9}})[ ](?=\d{{1,9}}/[1-9]))?(?P<decimal>{_DIGITS}){_REST}"
# A minus after a digit, a letter or a closing bracket is a subtraction or a
# dash. Digits right after a Latin letter, `_` or `^` belong to a name, a unit
# or a power: x1, m2, 10^3.
_ANYWHERE = re.compile(
    rf"(?P<written>(?:(?<![\w).,\]}}^])(?P<sign>[-+]))?(?:{_CURRENCY}(?P<inner>[-+])?)?"
    rf"(?:(?<![A-Za-z_^\d])|(?<=USD)|(?<=EUR)|(?<=GBP)|(?<=INR)|(?<=Rs))(?<!\d\.)"
    rf"(?<!\^\{{)(?<!\^-)(?<!\^\{{-)"
    rf"{_CORE})"
)
_ALONE = re.compile(
    rf"(?P<written>(?P<sign>[-+])?\s?(?:{_CURRENCY}\s?(?P<inner>[-+])?)?{_CORE})"
    rf"(?:\s?{_CURRENCY})?"
)
_FRACTION = re.compile(
    r"\\[dtc]?frac\s?(?:\{\s?(?P<minus>-?)(?P<top>[\d.,]*\d)\s?\}\s?\{\s?(?P<bottom>\d+)\s?\}"
    r"|(?P<short>\d)\s?(?P<under>\d))"
)
_SPACED_THOUSANDS = re.compile(r"(?<=\d)[ \u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SLASH = re.compile(r"\s?/\s?")
_THIN = re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\}|[\u2009\u202f])(?=\d)")
_GLUE = str.maketrans({"\u2212": "-", "\u00a0": " "})


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text."""

    text: str
    """As it is written, LaTeX's signs and fractions in plain form."""
    value: Fraction | None
    """None for a division by zero, and for what is too long or too large."""
    percent: bool = False
    """Whether a percent sign follows; the value is what stands before it."""


def last_number(text: str) -> Number | None:
    """The last number in a text."""
    found = last_match(_ANYWHERE, plain(text))
    return None if found is None else _number(found)


def first_number(text: str) -> Number | None:
    """The first number in a text."""
    found = _ANYWHERE.search(plain(text))
    return None if found is None else _number(found)


def stated_number(text: str) -> Number | None:
    """The last number, or where there is a `####` the first after the last of them."""
    _, mark, tail = text.rpartition(HASHES)
    return first_number(tail) if mark else last_number(text)


def lone_number(text: str) -> Number | None:
    """The number that a whole text is, or None; here spaces may part thousands."""
    bare = _SLASH.sub("/", _SPACED_THOUSANDS.sub("", plain(text).strip())).rstrip(".")
    found = _ALONE.fullmatch(bare)
    return None if found is None else _number(found)


def leading_number(text: str) -> tuple[Number, str] | None:
    """The number that a text begins with, and what follows it."""
    bare = plain(text).strip()
    found = _ALONE.match(bare)
    return None if found is None else (_number(found), bare[found.end() :])


def as_number(text: str) -> Fraction | None:
    """The value of a text that is a number, or None."""
    number = lone_number(text)
    return None if number is None else number.value


def same_number(one: Fraction, other: Fraction) -> bool:
    """Whether two numbers are equal: whole ones exactly, others within a millionth.

    A millionth of the larger or of one, whichever is less: 0.333333 is a third,
    and a millionth apart is nothing where a price has two decimals.
    """
    if one.denominator == 1 and other.denominator == 1:
        return one == other
    larger = max(abs(one), abs(other))
    return abs(one - other) <= TOLERANCE * min(Fraction(1), larger)


def plain(text: str) -> str:
    r"""A text whose numbers are written without LaTeX: `\$1{,}234` is `$1,234`."""
    text = text.translate(_GLUE)
    if "\\" not in text and "{" not in text:
        return text
    text = _THIN.sub(_thousands, text.replace("\\$", "$").replace("\\%", "%"))
    return _FRACTION.sub(_slashed, text)


def _thousands(match: re.Match[str]) -> str:
    return "," if match[0] == "{,}" else ""


def _slashed(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    top, bottom = match["top"] or match["short"], match["bottom"] or match["under"]
    # A whole number before it makes a mixed one.
    return f"{' ' if before.isdigit() else ''}{match['minus'] or ''}{top}/{bottom}"


def _number(match: re.Match[str]) -> Number:
    return Number(match["written"], _value(match), match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match["decimal"]) > MOST_DIGITS or len(match["denominator"] or "") > MOST_DIGITS:
        return None
    exponent = int(match["exponent"] or match["power"] or 0)
    denominator = int(match["denominator"] or 1)
    if denominator == 0 or abs(exponent) > MOST_EXPONENT:
        return None
    value = Fraction(match["decimal"].replace(",", "")) * Fraction(10) ** exponent / denominator
    if value < 1:
        value += int(match["whole"] or 0)
    value *= SCALES.get(match["scale"] or "", 1)
    return -value if "-" in (match["sign"], match["inner"]) else value
