from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers.numbers import (
    as_number,
    first_number,
    last_number,
    lone_number,
    same_number,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1{,}234", 1234),
        ("1\\,234.50", Fraction("1234.5")),
        ("1 234 567", 1234567),
        ("\u20ac5", 5),
        ("5\u20ac", 5),
        ("$-5", -5),
        ("3 / 4", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("\\frac12", Fraction(1, 2)),
        ("\\tfrac{ 1 }{ 2 }", Fraction(1, 2)),
        ("1.5 \\times 10^{3}", 1500),
        ("1.5\u00d710^-2", Fraction(3, 200)),
        ("2 million", 2_000_000),
        ("1e999", None),
        ("9" * 401, None),
        ("1/0", None),
        ("3 4", None),
        ("12 apples", None),
        ("x", None),
    ],
)
def test_a_text_that_is_a_number(text: str, value: Fraction | int | None) -> None:
    assert as_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x1 = 18 m2", 18),
        ("5 m^2, 10^3", 10),
        ("H2O", None),
        ("v1.2.3", None),
        ("USD50", 50),
        ("Rs50", 50),
        ("\u7b54\u6848\u662f18", 18),
        ("It is 1e3.", 1000),
        ("It is \\frac{36}{2}.", 18),
        ("It takes 1 1/2 hours", Fraction(3, 2)),
        ("10 of 12/5", Fraction(12, 5)),
        ("about 2 thousand people", 2000),
        ("5^{-3}", 5),
        ("2020-01-05", 5),
    ],
)
def test_the_last_number_in_a_text(text: str, value: Fraction | int | None) -> None:
    number = last_number(text)
    assert (number and number.value) == value


def test_percent_signs_are_told() -> None:
    for text in ("50%", "50 %", "50\\%", "50 percent", "50 per cent"):
        number = lone_number(text)
        assert number is not None
        assert number.percent
        assert number.value == 50


def test_the_first_number() -> None:
    number = first_number("-2 apples of 3")
    assert number is not None
    assert number.value == -2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("1234567.5", "1234567.8", False),
        ("12345678901234567890", "12345678901234567891", False),
        ("0.00000015", "0.00000014", False),
        ("0", "0.0000001", False),
        ("2.50", "5/2", True),
    ],
)
def test_equal_numbers(one: str, other: str, same: bool) -> None:
    first, second = as_number(one), as_number(other)
    assert first is not None
    assert second is not None
    assert same_number(first, second) is same


@given(st.fractions())
def test_a_fraction_is_read_as_it_is_written(value: Fraction) -> None:
    assert as_number(f"{value.numerator}/{value.denominator}") == value


@given(st.integers())
def test_separators_change_nothing(value: int) -> None:
    if abs(value) < 10**100:
        assert as_number(f"{value:,}") == value
        number = last_number(f"It is ${value:,}.00, I think.")
        assert number is not None
        assert number.value == value
