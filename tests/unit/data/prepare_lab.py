"""Small data files and what is prepared from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpo.spec.data import DataSpec
from workers.data.preparing.build import prepare
from workers.data.preparing.prepared import PreparedData
from workers.data.preparing.recipe import Recipe

Row = Mapping[str, Any]


def write(file: Path, rows: Iterable[Row]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def sums(count: int, start: int = 0) -> list[dict[str, str]]:
    """Rows whose prompts all differ."""
    return [
        {"prompt": f"What is {number} and one?", "completion": f"It is {number + 1}."}
        for number in range(start, start + count)
    ]


def prepared(root: Path, content: dict[str, Any], **recipe: Any) -> PreparedData:
    """The data of a data section, texts only unless a tokenizer is named."""
    spec = DataSpec.model_validate(content)
    data = prepare(Recipe(spec, recipe.pop("tokenizer", None), **recipe), root / "cache")
    for part in data.report.sets:
        assert part.adds_up, part
    return data


def prompts(data: PreparedData, name: str) -> list[str]:
    return [example.prompt for example in data.examples(name)]


def dropped(data: PreparedData, name: str = "train") -> dict[str, int]:
    return data.report.of_set(name).dropped
