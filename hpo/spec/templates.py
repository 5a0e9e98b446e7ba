"""Texts with named fields: `Problem:\\n{prompt}\\n\\nSolution:\\n{completion}`.

A field is a name in braces; `{{` and `}}` stand for braces themselves. There
is nothing else to it: no format codes, no expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

LAYOUTS = ("auto", "chat", "chatml", "plain")
"""Layouts that are no texts: the tokenizer's chat template, ChatML, or prompt,
separator and completion; `auto` is chat where the tokenizer has a template."""

COMPLETION = "completion"
RESERVED = ("system_prompt", "prompt", "examples", COMPLETION)
"""Fields that every layout text may hold. A data set's own fields may stand
beside them."""
DERIVED = ("reasoning", "final_answer")
"""Fields that are cut out of a completion: what stands before its final
answer, and the final answer (after `####`, in a box or in answer tags)."""

NAMED = {
    # Prompt and solution under headings, as published for DIVERSE.
    "problem-solution": "{system_prompt}\n\nProblem:\n{prompt}\n\nSolution:\n{completion}",
    # ChatML for competitive programming, one to three examples in the prompt.
    "competition": (
        "<|im_start|>system\nYou are an expert competitive programmer. Solve the following "
        "problem with a complete Python solution.\n<|im_end|>\n"
        "<|im_start|>user\n{prompt}\n\n{examples}\n\nWrite a complete Python solution. Your code "
        "should read from standard input and write to standard output.\n<|im_end|>\n"
        "<|im_start|>assistant\n{completion}\n<|im_end|>\n"
    ),
    # Ours: worked steps, then the answer alone between tags.
    "answer": (
        "{system_prompt}\n\nSolve the problem step by step, then give the final answer alone "
        "between <answer> and </answer>.\n\nProblem:\n{prompt}\n\nSolution:\n"
        "{reasoning}\n<answer>{final_answer}</answer>"
    ),
}
"""Layout texts by name."""

TOKEN = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")


@dataclass(frozen=True)
class Field:
    """A named field in a text."""

    name: str


Part = str | Field


def parse(text: str) -> tuple[Part, ...]:
    """The texts and fields that a template consists of.

    Raises ValueError for a brace that belongs to no field.
    """
    parts: list[Part] = []
    literal, end = "", 0
    for match in TOKEN.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[1] is not None:
            parts += [literal, Field(match[1])]
            literal = ""
        elif len(match[0]) == 2:
            literal += match[0][0]
        else:
            raise ValueError(
                f"fields such as {{name}}, and {{{{ or }}}} for a brace; "
                f"found a single {match[0]!r} at character {match.start() + 1}"
            )
    return tuple(part for part in (*parts, literal + text[end:]) if part != "")


def fields(text: str) -> tuple[str, ...]:
    """The names of the fields in a text, each once, in order.

    Raises ValueError like `parse`.
    """
    return tuple(dict.fromkeys(part.name for part in parse(text) if isinstance(part, Field)))


def is_text(value: str) -> bool:
    """Whether a value is a text with fields rather than the name of one field."""
    return "{" in value


def fill(parts: tuple[Part, ...], value: Callable[[str], str]) -> str:
    """The text with `value(name)` in the place of each field."""
    return "".join(part if isinstance(part, str) else value(part.name) for part in parts)


def layout_text(template: str) -> str | None:
    """The text of a layout: that of its name, or itself; None for the four without one."""
    return None if template in LAYOUTS else NAMED.get(template, template)
