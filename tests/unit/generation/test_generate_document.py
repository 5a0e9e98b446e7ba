"""docs/generate.md says what is there."""

from __future__ import annotations

from pathlib import Path

import yaml

from hpo.spec.checks import Checks
from hpo.spec.generate import Engine, GenerateSpec, Level

DOCUMENT = Path(__file__).parents[3] / "docs" / "generate.md"


def test_its_example_is_valid() -> None:
    text = DOCUMENT.read_text().partition("```yaml\n")[2].partition("```")[0]
    spec = GenerateSpec.model_validate(yaml.safe_load(text))
    assert spec.checks == Checks()
    assert list(spec.levels) == ["A1", "C2"]


def test_it_names_every_check_and_size() -> None:
    text = DOCUMENT.read_text()
    for name in (*Checks.model_fields, *Engine.model_fields, *Level.model_fields):
        assert f"`{name}`" in text or f"engine.{name}`" in text, name
