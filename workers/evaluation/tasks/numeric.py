"""The last number of a text, for grading answers as GSM8K does."""

from __future__ import annotations

import re
from fractions import Fraction

MARK = "####"
"""Stands before the final answer in GSM8K (arXiv:2110.14168)."""

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# A minus after a digit, a letter or a closing bracket is a subtraction or a dash.
_NUMBER = re.compile(
    rf"(?:(?<![\w).,])(?P<sign>[-+\u2212])\$?)?(?P<decimal>{_DECIMAL})"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?![\w.]))?"
    r"(?:/(?P<denominator>\d+)(?![\d.]))?"
)


def last_number(text: str) -> Fraction | None:
    """The last number in `text`, or the first after the last `####`, exactly.

    Understood are signs, thousands separators (`1,234`), decimals (`.5`),
    exponents (`1e3`) and fractions (`3/4`); currency and percent signs are
    passed over, so `50%` is 50. None where there is no number, or where it is
    divided by zero.
    """
    _, mark, tail = text.rpartition(MARK)
    found = list(_NUMBER.finditer(tail if mark else text))
    if not found:
        return None
    return _value(found[0] if mark else found[-1])


def _value(match: re.Match[str]) -> Fraction | None:
    value = Fraction(match["decimal"].replace(",", ""))
    value *= Fraction(10) ** int(match["exponent"] or 0)
    denominator = int(match["denominator"] or 1)
    if denominator == 0:
        return None
    return -value / denominator if match["sign"] in ("-", "\u2212") else value / denominator
