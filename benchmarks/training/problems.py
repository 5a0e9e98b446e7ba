"""GSM8K's problems as tokens, the same for every way to train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.data.tokenizer import make_tokenizer
from workers.data.tokens.encoded import EncodedExample

FILE = "problems.json"
END = 0
"""Token of the end of text, and of padding."""


def write_problems(source: Path, folder: Path, count: int) -> None:
    """Tokenise the first problems of GSM8K's train.jsonl, for `read_problems`."""
    make_tokenizer(source, folder / "tokenizer")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")
    problems = []
    for line in source.read_text().splitlines()[:count]:
        row = json.loads(line)
        prompt = tokenizer.encode(row["question"] + "\n")
        problems.append((len(prompt), [*prompt, *tokenizer.encode(row["answer"]), END]))
    (folder / FILE).write_text(json.dumps(problems))


def read_problems(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Length of the prompt, and all tokens, of each problem."""
    yield from json.loads((folder / FILE).read_text())


def as_examples(folder: Path) -> list[EncodedExample]:
    """For our loop."""
    return [EncodedExample.completion_only(ids, prompt) for prompt, ids in read_problems(folder)]


def as_rows(folder: Path) -> list[dict[str, list[int]]]:
    """For trainers: tokens, and labels that are -100 on the prompt."""
    return [
        {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "labels": [-100] * prompt + ids[prompt:],
        }
        for prompt, ids in read_problems(folder)
    ]
