import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.cleaning import fences
from workers.data.cleaning.fences import blocks, is_python, python_tree, standardised


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("no code", "no code"),
        ("```py \nx = 1\n```  \nend  ", "```python\nx = 1\n```\nend  "),
        ("~~~JSON\n{}\n~~~", "```json\n{}\n```"),
        ("a\n```\ndef f():\n    return 1", "a\n```python\ndef f():\n    return 1\n```"),
        ("```\r\nx\r\n```\r\nb\r\n", "```\nx\n```\nb\r\n"),
        ("````\nx\n````", "```\nx\n```"),
        ("````md\n```\nx\n```\n````", "````md\n```\nx\n```\n````"),
        ("~~~\n```\n~~~", "````\n```\n````"),
        ("1. so:\n   ```python\n   x = 1\n   ```", "1. so:\n   ```python\n   x = 1\n   ```"),
        ("```python title='a b'\nx\n```", "```python title='a b'\nx\n```"),
        ("```\njust words\n```", "```\njust words\n```"),
        ("```\ncats and dogs\n```", "```\ncats and dogs\n```"),
        ("inline ```x``` stays", "inline ```x``` stays"),
        ("code\n```", "code\n```"),
        ("```python\nx\n\n\n", "```python\nx\n```"),
    ],
)
def test_blocks_are_put_in_order(text: str, tidy: str) -> None:
    assert standardised(text) == tidy


MARKS = st.sampled_from(
    ["```", "````", "```py", "~~~", "~~~ a`b", "\t~~~~", "```\r", "  ```", "``` "]
)
OTHER = st.sampled_from(["x\r", "`", "```x```", "text", "def f(): pass", "import os", "", "   "])
LINES = MARKS | OTHER | st.text(alphabet="`~ \n\r\tpy=1", max_size=6)


@given(st.lists(LINES, max_size=12))
def test_order_is_kept_when_put_in_order_again(lines: list[str]) -> None:
    once = standardised("\n".join(lines))
    assert standardised(once) == once


@given(st.text(alphabet=st.characters(exclude_characters="`~")))
def test_text_without_blocks_is_not_touched(text: str) -> None:
    assert standardised(text) == text


def test_a_block_knows_language_code_and_end() -> None:
    found = blocks("a\n  ```Py\n  x = 1\n    y\n  ```\n~~~\nopen")
    assert [block.language for block in found] == ["python", ""]
    assert [block.code for block in found] == ["x = 1\n  y", "open"]
    assert [block.closed for block in found] == [True, False]


@pytest.mark.parametrize(
    "code", ["x = (", "\0", "(" * 5000, "-" * 90_000 + "1", "'\\d' +", "1" * 5000, "x.a" * 40_000]
)
def test_hostile_code_does_not_parse(code: str) -> None:
    assert python_tree(code) is None


def test_code_with_doubtful_escapes_parses_without_a_warning() -> None:
    assert python_tree("x = '\\d'; y = 1 is 1") is not None


def test_python_has_a_statement() -> None:
    assert is_python("    for x in y:\n        pass\n    return 1")
    assert not is_python("cats and dogs")
    assert not is_python("for dogs and cats")


def test_long_code_is_not_parsed() -> None:
    assert python_tree("x = 1\n" * (fences.PARSED_CHARACTERS // 6 + 1)) is None
