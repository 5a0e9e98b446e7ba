"""Fenced code blocks (CommonMark 0.31, section 4.5)."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = re.compile(r"([ \t]*)(`{3,}(?=[^`]*\Z)|~{3,})(.*)", re.DOTALL)
_PYTHON_NAMES = frozenset({"python", "py", "python3", "py3"})

PARSED_CHARACTERS = 100_000
"""Longest code that is parsed; a tree takes some hundred bytes per character."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its marks and the lines between them."""

    indent: str
    info: str
    """What stands behind the opening mark: a language, and perhaps more."""
    lines: tuple[str, ...]
    closed: bool

    @property
    def code(self) -> str:
        """The lines without what they are indented by together."""
        return textwrap.dedent("\n".join(self.lines))

    @property
    def language(self) -> str:
        """The first word of the info, in small letters; `python` for its short names."""
        name = self.info.split()[0].lower() if self.info else ""
        return "python" if name in _PYTHON_NAMES else name


def parts(text: str) -> Iterator[str | Block]:
    """The lines of a text that lie outside of blocks, and the blocks, in order.

    A block that is not closed ends with its last line that is not blank.
    """
    lines = iter(text.split("\n"))
    for line in lines:
        opening = _OPENING.fullmatch(line) if "```" in line or "~~~" in line else None
        yield line if opening is None else _block(opening, lines)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text."""
    if "```" not in text and "~~~" not in text:
        return []
    return [part for part in parts(text) if isinstance(part, Block)]


def _block(opening: re.Match[str], following: Iterator[str]) -> Block:
    indent, mark, info = opening.groups()
    # A mark that is indented further is a line of the block.
    closing = re.compile(rf"[ \t]{{0,{len(indent) + 3}}}{re.escape(mark)}{mark[0]}*[ \t\r]*")
    lines, closed = list[str](), False
    for line in following:
        if closing.fullmatch(line):
            closed = True
            break
        lines.append(line.rstrip("\r"))
    while not closed and lines and not lines[-1].strip():
        lines.pop()
    return Block(indent, info.replace("`", "").strip(), tuple(lines), closed)


def standardised(text: str) -> str:
    """A text with its fenced blocks in order; the rest of it stays as it is.

    A block gets backticks, no more than its lines ask for, a language in small
    letters (`python` also for `py` and for code without a language that is
    plainly Python), line ends of one character and a closing mark. A mark at
    the very end opens nothing and is left without one.
    """
    if "```" not in text and "~~~" not in text:
        return text
    return "\n".join(part if isinstance(part, str) else _written(part) for part in parts(text))


def _written(block: Block) -> str:
    mark = "`" * max([3, *(1 + _backticks(line) for line in block.lines)])
    opening = mark + " ".join([block.language or _guessed(block), *block.info.split()[1:]])
    closing = [block.indent + mark] if block.closed or block.lines else []
    return "\n".join([block.indent + opening, *block.lines, *closing])


def _backticks(line: str) -> int:
    """How many backticks lead a line; fewer than three close nothing."""
    bare = line.lstrip(" \t")
    count = len(bare) - len(bare.lstrip("`"))
    return count if count >= 3 else 0


def _guessed(block: Block) -> str:
    tree = python_tree(block.code)
    return "python" if tree is not None and _plainly_python(tree) else ""


def python_tree(code: str) -> ast.Module | None:
    """The syntax tree of Python code, or None where it does not parse or is too long."""
    if len(code) > PARSED_CHARACTERS:
        return None
    with warnings.catch_warnings():
        # Such as for `"\d"`; they are about the data, not about this program.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def is_python(code: str) -> bool:
    """Whether a text is Python code with a statement; words such as `cats and dogs` have none."""
    tree = python_tree(textwrap.dedent(code))
    return tree is not None and any(not isinstance(part, ast.Expr) for part in tree.body)


_STATEMENTS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.For,
    ast.While,
    ast.If,
    ast.With,
    ast.Try,
)


def _plainly_python(tree: ast.Module) -> bool:
    """Whether code says more than words, sums and assignments that many languages share."""
    return any(isinstance(part, _STATEMENTS) or _prints(part) for part in tree.body)


def _prints(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("print", "input")
    )
