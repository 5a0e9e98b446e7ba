from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.tasks.source import (
    MOST_CHARACTERS,
    blocks,
    continued,
    looks_like_code,
    parse,
    salvaged,
)

START = 'def double(x: int) -> int:\n    """Twice."""\n'


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("```python\na = 1\n```", ["a = 1\n"]),
        ("Text\n```py\na = 1\n```\nmore\n```Python\nb = 2\n```", ["a = 1\n", "b = 2\n"]),
        ("```\na = 1\n```\n```\n5\n```", ["a = 1\n", "5\n"]),
        ("```\n5\n```\n```python\na = 1\n```", ["a = 1\n"]),
        ("```bash\npip install x\n```", []),
        ("~~~python\na = '''\n```\n'''\n~~~", ["a = '''\n```\n'''\n"]),
        ("````python\n```\n````", ["```\n"]),
        ("1. Like so:\n   ```python\n   if a:\n       b\n   ```", ["if a:\n    b\n"]),
        ("```python\ncut = off", ["cut = off"]),
        ("no `a = 1` block", []),
        ("", []),
    ],
)
def test_fenced_blocks(answer: str, found: list[str]) -> None:
    assert blocks(answer) == found


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("a = 1", None),
        ("def f(:", "line 1"),
        ("return 1", "outside function"),
        ("a\x00", "null bytes"),
        ("\ud800", "UnicodeEncodeError"),
        ("(" * 100_000, "too many nested parentheses"),
        ("-" * 100_000 + "1", ""),
        ("a" + ".a" * 100_000, ""),
        ("not " * 60_000 + "a", ""),
        ("if a:\n" * 1, "indented block"),
        ("x = " + "9" * 5000, "4300"),
        ("a" * (MOST_CHARACTERS + 1), "characters, more than"),
        ("'\\d'", None),
    ],
    ids=range(13),
)
def test_parsing_never_raises(code: str, error: str | None) -> None:
    parsed = parse(code)
    assert (parsed.error is None) == (error is None)
    assert error is None or error in str(parsed.error)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for found in (parse(text), continued(START, text), *map(parse, blocks(text))):
        assert found.error is None or found.error
    salvaged(text, "f")


@pytest.mark.parametrize(
    "unit", [" ", "`", "a", "a(", ")", "=", "\n", "\n`", "a.", "```a\n", "~", "    x"]
)
@pytest.mark.parametrize("end", ["", "x", "\n```python\na"])
def test_long_answers_take_little_time(unit: str, end: str) -> None:
    text = unit * (100_000 // len(unit)) + end
    started = time.process_time()
    blocks(text)
    looks_like_code(text)
    continued(START, text)
    salvaged(text, "f")
    assert time.process_time() - started < 5


def test_names_that_are_defined() -> None:
    code = "import os\nasync def a(): pass\nclass B: c = 1\nd = e = lambda: 1\ndef f(): g = 1"
    assert parse(code).defines == {"a", "B", "d", "e", "f"}


@pytest.mark.parametrize(
    "text",
    ["x = 1", "    return x", "print(1)", "import os", "exit(0)", "a.b(c)", "@cache", "xs[i] += 1"],
)
def test_what_may_be_code(text: str) -> None:
    assert looks_like_code(f"Some words:\n{text}\n")


@pytest.mark.parametrize(
    "text", ["", "  \n", "I am sorry.", "42", "The function doubles x.", "a == b"]
)
def test_what_is_no_code(text: str) -> None:
    assert not looks_like_code(text)


@pytest.mark.parametrize(
    "answer",
    [
        "    return 2 * x\n",
        "    return 2 * x\n\ndef other(",
        "    return 2 * x\n\nif __name__ == '__main__':\n    broken(",
        "    return 2 * x\nprint(double(",
        "    return 2 * x\n# Explanation: it's doubled",
        "    return 2 * x\n```\nThat's it.",
        "return 2 * x",
        "\n\n    y = x\n\n    return x + y",
        "y = x\n    return x + y",
        "if x:\n    return 2 * x\nreturn 0",
    ],
)
def test_a_body_goes_on_from_the_prompt(answer: str) -> None:
    parsed = continued(START, answer)
    assert parsed.error is None
    space: dict[str, object] = {}
    exec(parsed.code, space)
    double = space["double"]
    assert callable(double)
    assert double(21) == 42


def test_a_body_that_cannot_be() -> None:
    parsed = continued(START, "    return (")
    assert parsed.error == "line 3: '(' was never closed"


@pytest.mark.parametrize(
    "answer",
    [
        "Sure, here it is:\n\ndef f(x):\n    return x\n\nThis returns x.",
        "import os\n\n\ndef f(x):\n    return x\n\ndef g(",
        "def f(x):\n    return x\nI hope it's\nwhat you\nwanted!",
    ],
)
def test_code_between_prose(answer: str) -> None:
    parsed = salvaged(answer, "f")
    assert parsed is not None
    assert "return x" in parsed.code


@pytest.mark.parametrize(
    "answer", ["prose", "def g():\n    pass\nprose here", "def f(:\nprose it is"]
)
def test_prose_without_the_function(answer: str) -> None:
    assert salvaged(answer, "f") is None
