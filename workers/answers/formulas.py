"""Formulas in texts, and whether a text is one."""

from __future__ import annotations

import re
from typing import Literal

from workers.answers.numbers import Number, last_number, leading_number, lone_number, plain
from workers.answers.scan import last_match

Kind = Literal["number", "formula", "words"]

# A dollar opens a formula only before something and closes one only after
# something and not before a digit, so that "$5 and $10" holds none (as in Pandoc).
_DELIMITED = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$"
    r"|(?<![\\$])\$(?![\s$])(?P<inline>(?:[^$\n\\]|\\.)+)(?<!\s)\$(?![\d$])"
    r"|\\\[(?P<bracket>(?:[^\\]|\\[^\[\]])+)\\\]"
    r"|\\\((?P<parenthesis>(?:[^\\]|\\[^()])+)\\\)"
)
_COMMAND = re.compile(r"\\(?:begin|end)\s?\{[A-Za-z*]*\}|\\[A-Za-z]+")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}")
_LETTERS = re.compile(r"[^\W\d_]+")
# Names of functions and the like, and words that part the members of a list.
_NAME = re.compile(
    "sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|sinh|cosh|tanh|log|exp|lim|max|min|gcd|lcm|p?mod"
    "|det|sqrt|inf|infty|infinity|deg|dim|ker|and|or"
)
_SHORT_WORD = re.compile("of|so|to|in|it|is|he|we|as|an|at|be|by|do|if|no|on|us|me|my|up|go")
_SHORT_UNIT = re.compile(
    "mm|cm|dm|km|ft|yd|mi|mg|kg|lb|oz|ml|cl|dl|hr|hrs|min|sec|ms|am|pm|mph|kph|kmh"
)
_LETTER_UNIT = re.compile("[mgshl]")
_UNIT = re.compile(r"(?:[^\W\d_]|['.\u00b0\u00b2\u00b3/ -]|\^\{?[23]\}?)+")
_PER = re.compile(r"/\s?[A-Za-z]+")
_DEGREES = re.compile(r"\s?\^\s?\{?\s?\\circ\s?\}?")
_DIGIT = re.compile(r"\d")
_OPENED_BOX = re.compile(r"\\boxed\s?\{")


def kind_of(text: str) -> Kind:
    """What a text that stands for an answer is; a number may have a unit."""
    if quantity(text) is not None:
        return "number"
    return "words" if has_words(text) or not text.strip() else "formula"


def has_words(text: str) -> bool:
    """Whether a text holds words, in LaTeX's text commands too; names of functions are none."""
    bare = _COMMAND.sub(" ", unwrapped(text))
    return any(_is_word(letters) for letters in _LETTERS.findall(bare))


def quantity(text: str) -> Number | None:
    """The number that a text is, perhaps with a unit, as in `12 apples` or `5 cm^2`; or None."""
    alone = lone_number(text)
    if alone is not None:
        return alone
    leading = leading_number(_DEGREES.sub("\u00b0", unwrapped(text)))
    return leading[0] if leading is not None and _is_unit(leading[1]) else None


def unwrapped(text: str) -> str:
    r"""A text without LaTeX's text commands: what stood in `\text{}`, between blanks."""
    return _WRAPPED.sub(r" \1 ", text)


def undelimited(text: str) -> str:
    """A text without the dollars or brackets that make all of it a formula."""
    found = _DELIMITED.fullmatch(text.strip())
    return text.strip() if found is None else found[found.lastgroup or 0].strip()


def last_formula(text: str) -> str | None:
    r"""What is last in a text: a formula in dollars, brackets or bare LaTeX, or a number."""
    delimited = last_match(_DELIMITED, text)
    if delimited is None:
        return _bare(text)
    return _bare(text[delimited.end() :]) or delimited[delimited.lastgroup or 0].strip()


def _bare(text: str) -> str | None:
    """The last word with a LaTeX command, or the last number, whichever is later."""
    text = plain(unwrapped(_OPENED_BOX.sub(" ", text)))
    for word in reversed(text.split()):
        if _COMMAND.search(word):
            return word.strip(".,;:!?*")
        if _DIGIT.search(word):
            break
    number = last_number(text)
    return None if number is None else number.text


def _is_word(letters: str) -> bool:
    name = letters.lower()
    return _SHORT_WORD.fullmatch(name) is not None or (len(name) > 2 and not _NAME.fullmatch(name))


def _is_unit(rest: str) -> bool:
    """Whether what follows a number only says what is counted or measured."""
    bare = rest.replace("$", "").strip().rstrip(".")
    names = [letters.lower() for letters in _LETTERS.findall(_PER.sub("", bare))]
    if not _UNIT.fullmatch(bare) or any(map(_is_function, names)):
        return False
    if "\u00b0" in bare:
        return names in ([], ["c"], ["f"])
    if names and all(map(_SHORT_UNIT.fullmatch, names)):
        return True
    # `5 m/s` is a speed, `5m` may be five times m.
    apart = rest[:1].isspace() or "/" in bare
    return apart and any(_is_word(name) or _LETTER_UNIT.fullmatch(name) for name in names)


def _is_function(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not _SHORT_UNIT.fullmatch(name)
