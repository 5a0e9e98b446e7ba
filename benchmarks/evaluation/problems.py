"""Worded problems with worked solutions: GSM8K's, or made-up ones in its form."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

FILES = ("train.jsonl", "test.jsonl")
MADE_UP = 1000
"""Problems of each file."""
NAMES = ("Anna", "Ben", "Carla", "Deniz", "Emil", "Fatou", "Goran", "Hana")
THINGS = ("apples", "books", "cards", "drums", "eggs", "flags")


def put_problems(gsm8k: Path | None, folder: Path) -> None:
    """Have train.jsonl and test.jsonl in the folder, with `question` and `answer` in each row."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for name in FILES:
        if gsm8k is not None:
            shutil.copy(gsm8k / name, folder / name)
        else:
            rows = (json.dumps(_problem(draw)) for _ in range(MADE_UP))
            (folder / name).write_text("\n".join(rows) + "\n")


def _problem(draw: random.Random) -> dict[str, str]:
    """Steps that each add something; as long as GSM8K's."""
    who, what = draw.choice(NAMES), draw.choice(THINGS)
    have = draw.randint(2, 90)
    told, worked = [f"{who} has {have} {what}."], []
    for day in range(1, draw.randint(3, 8)):
        more = draw.randint(2, 90)
        told.append(f"On day {day} {draw.choice(NAMES)} brings {more} more of the {what}.")
        worked.append(
            f"After day {day} {who} has {have}+{more}=<<{have}+{more}={have + more}>>{have + more}."
        )
        have += more
    told.append(f"How many {what} does {who} have in the end?")
    return {"question": " ".join(told), "answer": "\n".join([*worked, f"#### {have}"])}
