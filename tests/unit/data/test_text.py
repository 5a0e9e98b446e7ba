import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.cleaning.text import damage, joined, normalised
from workers.data.example import Example, Turn

ANY = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANY)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@given(st.text())
def test_case_form_and_space_make_no_difference(text: str) -> None:
    spread = f"\n{text.replace(' ', '  ')}\t"
    assert normalised(unicodedata.normalize("NFD", spread)) == normalised(text)


def test_the_normal_form_is_caseless_and_compatible() -> None:
    assert normalised("  \ufb01ne\u00a0 STRASSE \n cafe\u0301 ") == "fine strasse caf\u00e9"
    assert normalised("Stra\u00dfe") == normalised("STRASSE")


def test_a_system_prompt_is_joined_on_demand() -> None:
    turns = (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a"))
    assert joined(Example(turns), system=True) == "s\nu\na"
    assert joined(Example(turns), system=False) == "u\na"


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("a\ufffdb", "replacement character U+FFFD at character 2"),
        ("\x07", "control character U+0007 at character 1"),
        ("ab\x85", "control character U+0085 at character 3"),
        ("\x7f", "control character U+007F at character 1"),
        ("\ud800", "surrogate U+D800 at character 1"),
        ("\uffff", "non-character U+FFFF at character 1"),
    ],
)
def test_characters_of_no_text_are_damage(text: str, sign: str) -> None:
    assert damage(text) == sign


PROPER = [
    "plain\ttext\r\n",
    "S\u00c3O PAULO, IRM\u00c3, irm\u00e3, \u00c2ngelo, av\u00f4 e av\u00f3",
    "\u201cAMANH\u00c3\u201d \u2013 disse a IRM\u00c3\u2026 e saiu",
    "AMANH\u00c3\u2026",
    "Perch\u00e9? \u00abPERCH\u00c9\u00bb \u00e8 cos\u00ec, citt\u00e0, pi\u00f9, virt\u00f9",
    "\u00ab C'est ferm\u00e9\u00a0\u00bb, dit-il, l\u00e0\u00a0!",
    "ferm\u00e9\u00a0\u00bb",
    "P\u00e2t\u00e9, for\u00eat, ch\u00e2teau, na\u00efve, \u0153uvre, gar\u00e7on",
    "CAF\u00c9\u2026 CAF\u00c9\u2026",
    "NESTL\u00c9\u00ae und NESTL\u00c9\u2122",
    "1.5 \u00c5\u00b10.2, 20\u00b0C, \u00bd, 5\u00a0\u20ac, \u00a3 3",
    "Fl\u00e4che \u00d6l \u00dcber Stra\u00dfe \u00a75",
    "\u0423\u0440\u0430 \u4f60\u597d \U0001f600 \u2260",
]


@pytest.mark.parametrize("text", PROPER)
def test_proper_text_is_left_alone(text: str) -> None:
    assert damage(text) is None


MEANT = [
    "perch\u00e9",
    "don\u2019t",
    "citt\u00e0",
    "20\u00b0C",
    "5\u00a0\u20ac",
    "3 \u00d7 4",
    "\u201cso\u201d",
    "\u041f\u0440\u0438\u0432\u0435\u0442",
    "\u4f60\u597d",
    "na\u00efve \U0001f600",
    "cze\u015b\u0107 \u017c\u00f3\u0142w",
    "x \u2264 \u221a2",
]


@pytest.mark.parametrize("text", MEANT)
@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_utf8_that_was_read_otherwise_is_found(text: str, codec: str) -> None:
    assert damage(text) is None
    # What Windows-1252 leaves undefined is read as Latin-1 in practice.
    wrong = "".join(
        bytes([byte]).decode(codec, errors="ignore") or chr(byte) for byte in text.encode()
    )
    assert damage(wrong) is not None


def test_the_wrong_characters_are_shown_with_what_was_meant() -> None:
    found = damage("perch\u00c3\u00a9")
    assert found == "'\u00c3\u00a9' for '\u00e9' at character 6, UTF-8 read as Latin-1"


@given(ANY)
def test_looking_for_damage_never_fails(text: str) -> None:
    damage(text)
