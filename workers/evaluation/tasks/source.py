"""Python code in a model's answer: finding it, parsing it, joining it to what it goes on with."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MOST_CHARACTERS = 1 << 18
"""Longer code is refused unread: parsing takes memory many times its size."""

# No part of a pattern gives back what it took: long lines cost no more than their length.
_FENCE = re.compile(
    r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<language>[\w+.-]*+)[^\n`]*+\n"
    r"(?P<code>.*?)"
    r"(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*+$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PYTHON = ("python", "py", "python3")
_STATEMENT = re.compile(
    r"^[ \t]*+(?:"
    r"(?:async|def|class|import|from|return|for|while|if|try|with|raise|assert|pass|"
    r"lambda|global|del|yield|match)\b"
    r"|[\w.]++\(.*\)[ \t]*+$"
    r"|@\w"
    r"|[\w.\[\], ]++(?:[-+*/%&|^]|//|\*\*)?=(?!=)"
    r")",
    re.MULTILINE,
)
_BEGIN = re.compile(r"^(?:(?:async def|def|class|import|from)\b|@\w)", re.MULTILINE)
_TOP = re.compile(r"^\S", re.MULTILINE)
_MOST_CUTS, _MOST_SALVAGED = 50, 1 << 15

# As where the Codex paper's completions were cut (arXiv:2107.03374), and fences.
_STOP = re.compile(r"\n(?=def\b|async def\b|class\b|@|if\b|print\b|#|```|~~~)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Code that Python would run, or why it would not."""

    code: str
    error: str | None
    defines: frozenset[str] = frozenset()
    """Names that a statement at the top gives a value."""


def parse(code: str) -> Parsed:
    """Parse and compile code without running it; no text whatsoever raises an error."""
    if len(code) > MOST_CHARACTERS:
        return Parsed(code, f"{len(code)} characters, more than {MOST_CHARACTERS}")
    try:
        with warnings.catch_warnings():
            # Odd escapes and the like are the answer's own business.
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            compile(tree, "<answer>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return Parsed(code, f"line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return Parsed(code, f"{type(error).__name__}: {error}")
    return Parsed(code, None, frozenset(_defined(tree)))


def _defined(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def blocks(answer: str) -> list[str]:
    """Contents of the fenced blocks, in order: those marked as Python where there are any.

    A block that is not closed goes on to the answer's end.
    """
    found = [
        (match["language"].lower(), textwrap.dedent(match["code"]))
        for match in _FENCE.finditer(answer)
    ]
    marked = [code for language, code in found if language in _PYTHON]
    return marked or [code for language, code in found if not language]


def looks_like_code(text: str) -> bool:
    """Whether a line of it could be a statement; prose is no code that does not parse."""
    return _STATEMENT.search(text) is not None


def salvaged(text: str, name: str) -> Parsed | None:
    """The part of a text that defines `name`, without prose before and after it.

    Also without a last function that is not complete. None where no part does.
    """
    begun = _BEGIN.search(text)
    if begun is None or len(text) > _MOST_SALVAGED:
        return None
    ends = [match.start() for match in _TOP.finditer(text, begun.end())]
    for end in [len(text), *reversed(ends[-_MOST_CUTS:])]:
        parsed = parse(text[begun.start() : end])
        if parsed.error is None:
            return parsed if name in parsed.defines else None
    return None


def continued(start: str, answer: str) -> Parsed:
    """The code that begins with `start` and goes on with the answer.

    What follows the function's body is cut off. Some models leave out the first
    line's indentation, or every line's: the first way that parses is taken.
    """
    body = _cut(answer)
    ways = (
        start + body,
        f"{start}{' ' * 4}{body.lstrip()}",
        start + textwrap.indent(answer.strip("\n"), " " * 4),
    )
    parsed = [parse(way) for way in ways]
    return next((way for way in parsed if way.error is None), parsed[0])


def _cut(answer: str) -> str:
    body = answer.lstrip("\n")
    return _STOP.split(body, maxsplit=1)[0] + "\n"
