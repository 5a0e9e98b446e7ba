"""A large data set out of a small one: other numbers, other names, some duplicates."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

NAMES = [
    "Ada",
    "Bela",
    "Carl",
    "Dora",
    "Emil",
    "Fina",
    "Gina",
    "Hugo",
    "Ines",
    "Jana",
    "Karl",
    "Lena",
    "Mara",
    "Nico",
    "Olga",
    "Paul",
    "Rosa",
    "Sven",
    "Tina",
    "Ugo",
    "Vera",
    "Willy",
    "Xenia",
    "Yves",
    "Zoe",
]
NUMBER = re.compile(r"\d+")
NAME = re.compile(r"\b[A-Z][a-z]{2,}\b")
EXACT, NEAR = 0.02, 0.02
"""Shares of rows that repeat an earlier one, to the letter or but for one word."""


def grow(source: Path, target: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` lines made of a JSONL file with `question` and `answer`."""
    draw = random.Random(seed)
    first = [json.loads(line) for line in source.read_text().splitlines()]
    with target.open("w") as file:
        for row in _rows(first, rows, draw):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(first: list[dict[str, str]], rows: int, draw: random.Random) -> Iterator[dict[str, str]]:
    recent: list[dict[str, str]] = []
    for _ in range(rows):
        luck = draw.random()
        if recent and luck < EXACT:
            row = draw.choice(recent)
        elif recent and luck < EXACT + NEAR:
            row = _but_for_one_word(draw.choice(recent), draw)
        else:
            row = _changed(draw.choice(first), draw)
        recent = [*recent[-999:], row]
        yield row


def _changed(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """The same story with other people and other numbers, the same ones throughout."""
    known: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], str(draw.randrange(2, 10 ** len(match[0]) * 3)))

    def name(match: re.Match[str]) -> str:
        return known.setdefault(match[0], draw.choice(NAMES))

    return {key: NAME.sub(name, NUMBER.sub(number, text)) for key, text in row.items()}


def _but_for_one_word(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    words = row["answer"].split(" ")
    words[draw.randrange(len(words))] = "indeed"
    return {**row, "answer": " ".join(words)}
