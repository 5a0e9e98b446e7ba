"""Files for `hpo data generate`, and prompts to go with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpo.spec.errors import SpecError
from hpo.spec.generate import GenerateSpec, load_generate

FILE = """\
model: {path: model, dtype: float32}
prompts:
  - {path: prompts.jsonl, prompt: question, level: level}
levels:
  A1: {system_prompt: You teach beginners., max_new_tokens: 20, temperature: 0.6}
  C2: {max_new_tokens: 40}
output: out
"""


def spec_of(folder: Path, *edits: tuple[str, str]) -> GenerateSpec:
    """The file above with texts replaced."""
    text = FILE
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "generate.yaml"
    file.write_text(text)
    return load_generate(str(file), {"MODELS": "/models"})


def refused(folder: Path, *edits: tuple[str, str]) -> list[str]:
    """The lines with which the file is refused, without its name."""
    with pytest.raises(SpecError) as caught:
        spec_of(folder, *edits)
    name = folder / "generate.yaml"
    return [line.removeprefix(f"{name}: ") for line in str(caught.value).splitlines()]


def write_rows(file: Path, *rows: Mapping[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
