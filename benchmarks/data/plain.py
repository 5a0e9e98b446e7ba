"""The same steps as people write them: datasets, datasketch, a tokenizer's call.

Filter by length, drop equal texts by their hash, drop almost equal ones by
MinHash and LSH, split, tokenise. Prints one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import datasets
from datasketch import MinHash, MinHashLSH
from transformers import AutoTokenizer

from benchmarks.data.settings import CLEANING, FRACTION, SEED


def main() -> None:
    """`python -m benchmarks.data.plain FILE TOKENIZER CACHE`."""
    file, tokenizer, cache = sys.argv[1:]
    datasets.disable_progress_bars()
    started = time.monotonic()
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
    rows = rows.filter(_long_enough)
    rows = rows.select(_first_of_equals(rows))
    rows = rows.select(_without_near_duplicates(rows))
    parts = rows.train_test_split(test_size=FRACTION, seed=SEED)
    encoded = parts.map(_Encode(tokenizer), batched=True, remove_columns=rows.column_names)
    tokens = sum(len(ids) for part in encoded.values() for ids in part["input_ids"])
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "kept": len(rows), "tokens": tokens}))


def _long_enough(row: dict[str, str]) -> bool:
    lengths = [len(row["question"]), len(row["answer"])]
    shortest, longest = int(CLEANING["min_characters"]), int(CLEANING["max_characters"])
    return min(lengths) >= shortest and sum(lengths) <= longest


def _text(row: dict[str, str]) -> str:
    return " ".join(f"{row['question']}\n{row['answer']}".lower().split())


def _first_of_equals(rows: Any) -> list[int]:
    seen: set[str] = set()
    kept: list[int] = []
    for index, row in enumerate(rows):
        digest = hashlib.md5(_text(row).encode()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            kept.append(index)
    return kept


def _without_near_duplicates(rows: Any) -> list[int]:
    near = CLEANING["near_duplicates"]
    lsh = MinHashLSH(threshold=near["threshold"], num_perm=near["permutations"])
    kept: list[int] = []
    for index, row in enumerate(rows):
        words = _text(row).split()
        sketch = MinHash(num_perm=near["permutations"])
        sketch.update_batch(
            " ".join(words[at : at + near["words"]]).encode()
            for at in range(max(1, len(words) - near["words"] + 1))
        )
        if not lsh.query(sketch):
            lsh.insert(str(index), sketch)
            kept.append(index)
    return kept


class _Encode:
    def __init__(self, folder: str) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        prompts = [f"{question}\n" for question in batch["question"]]
        answers = [f"{answer}{self._tokenizer.eos_token}" for answer in batch["answer"]]
        asked = self._tokenizer(prompts, add_special_tokens=False)["input_ids"]
        given = self._tokenizer(answers, add_special_tokens=False)["input_ids"]
        return {
            "input_ids": [a + b for a, b in zip(asked, given, strict=True)],
            "labels": [[-100] * len(a) + b for a, b in zip(asked, given, strict=True)],
        }


if __name__ == "__main__":
    main()
