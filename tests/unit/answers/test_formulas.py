from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers.formulas import Kind, kind_of, last_formula, quantity


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("The answer is $\\sqrt{2}$.", "\\sqrt{2}"),
        ("so \\(x = 5\\), done", "x = 5"),
        ("so \\[\n x = 5 \n\\]", "x = 5"),
        ("so $$x = 5$$", "x = 5"),
        ("$x$ is for 3 of them", "3"),
        ("It costs $5 and then $10.", "$10"),
        ("between ($5) and ($7)", "$7"),
        ("It is $18$.", "18"),
        ("so it is \\frac{\\sqrt{2}}{2}.", "\\frac{\\sqrt{2}}{2}"),
        ("about 1 \\frac{1}{2} \\text{ cups}", "1 1/2"),
        ("cut off: \\boxed{18", "18"),
        ("use \\sqrt here, it is 5", "5"),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_last_formula_or_number(text: str, formula: str | None) -> None:
    assert last_formula(text) == formula


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1,234", "number"),
        ("12 apples", "number"),
        ("12 \\text{ apples}", "number"),
        ("5 km/h", "number"),
        ("12.5 cm^2", "number"),
        ("30cm", "number"),
        ("90^\\circ", "number"),
        ("20 \u00b0C", "number"),
        ("$5$ cm$^2$", "number"),
        ("50% of them", "number"),
        ("2 pi", "formula"),
        ("2 sin x", "formula"),
        ("12x", "formula"),
        ("x = 5 or x = 7", "formula"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "formula"),
        ("(1, 2)", "formula"),
        ("Tuesday", "words"),
        ("\\text{Tuesday}", "words"),
        ("5 apples and 3 pears", "words"),
        ("", "words"),
    ],
)
def test_kinds(text: str, kind: Kind) -> None:
    assert kind_of(text) == kind


def test_units_are_passed_over() -> None:
    for text in ("12", "12 apples", "12 cm", "12 kg.", "12 m/s", "12 people per day"):
        number = quantity(text)
        assert number is not None
        assert number.value == 12


@given(st.text(alphabet="0123456789$\\()[]{}^.,/ abfrctx%\n") | st.text())
def test_any_text_has_a_kind_and_perhaps_a_formula(text: str) -> None:
    assert kind_of(text) in ("number", "formula", "words")
    last_formula(text)
