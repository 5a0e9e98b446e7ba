from __future__ import annotations

from fractions import Fraction

import pytest

from workers.answers.numbers import stated_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("The answer is 42.", 42),
        ("first 3, then 4", 4),
        ("1,234,567", 1234567),
        ("$1,234.50 in total", Fraction("1234.5")),
        ("0.50", Fraction(1, 2)),
        ("it is .5", Fraction(1, 2)),
        ("-7", -7),
        ("x = -7", -7),
        ("(-7)", -7),
        ("-$7", -7),
        ("\u22127", -7),
        ("+7", 7),
        ("10-12", 12),
        ("10 - 12", 12),
        ("COVID-19", 19),
        ("50%", 50),
        ("3/4", Fraction(3, 4)),
        ("-3/4 of it", Fraction(-3, 4)),
        ("1e3", 1000),
        ("2.5E-1", Fraction(1, 4)),
        ("12,34", 34),
        ("1,2345", 2345),
        ("3.", 3),
        ("5 apples = 5.0", 5),
        ("2 + 2 = 4\n#### 4", 4),
        ("#### 1,080\nbecause 7 * 9", 1080),
        ("#### 1 #### -2 apples of 3", -2),
    ],
)
def test_number(text: str, value: Fraction | int) -> None:
    number = stated_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", ["", "none", "7 and ####", "#### none", "1/0", "..."])
def test_no_number(text: str) -> None:
    number = stated_number(text)
    assert number is None or number.value is None
