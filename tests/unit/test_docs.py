"""The documents say what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hpo.cli.main import app
from hpo.spec.data import DataSpec
from hpo.spec.data_file import DataFile
from hpo.spec.generate import GenerateSpec
from hpo.spec.load import load_study, parse_study

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<link>[^)\s]+)\)|src=\"(?P<source>[^\"]+)\"")
COMMAND = re.compile(r"(?:^|(?<=\s))(?:\.venv/bin/)?hpo(?P<words>( [^\n#;&|]+)?)")
STUDY = {"name", "model", "data", "training"}
GENERATION = {"model", "prompts", "levels", "output"}
VARIABLES = {"HPO_HOME": "/state", "GSM8K": "/gsm8k"}
LEAST_DATA = {"train": {"path": "train.jsonl"}, "loss": {"path": "valid.jsonl"}}
"""Stands beside a shown part of a data section."""


def blocks(text: str, *languages: str) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(text) if found["language"] in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words after every `hpo` in shell blocks and code spans."""
    spans = re.findall(r"`(hpo [^`\n]+)`", BLOCK.sub("", text))
    lines = [line for block in blocks(text, "sh", "bash") for line in block.splitlines()]
    for shown in [*spans, *lines]:
        if found := COMMAND.match(shown.strip()):
            yield shlex.split(found["words"])


def unknown(words: list[str]) -> str | None:
    """The first word that the command line does not know."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
    options = {"--help", "-h"}
    for parameter in command.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    given = (word.partition("=")[0] for word in words if word.startswith("-"))
    return next((option for option in given if option not in options), None)


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_resolve(document: Path) -> None:
    links = [found["link"] or found["source"] for found in LINK.finditer(document.read_text())]
    local = [link.partition("#")[0] for link in links if "://" not in link and link[0] != "#"]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_commands_exist(document: Path) -> None:
    strange = {shlex.join(words): unknown(words) for words in commands(document.read_text())}
    assert {words: word for words, word in strange.items() if word} == {}


def test_yaml_parses(document: Path) -> None:
    for text in blocks(document.read_text(), "yaml"):
        tree = yaml.safe_load(text)
        if set(tree) >= STUDY:
            parse_study(text, document.name, VARIABLES)
        elif set(tree) >= GENERATION:
            GenerateSpec.model_validate(tree)
        elif "data" in tree and set(tree) <= set(DataFile.model_fields):
            DataFile.model_validate(tree)
        elif set(tree) <= set(DataSpec.model_fields):
            DataSpec.model_validate(LEAST_DATA | tree)


def test_readme_shows_the_preset_that_ships() -> None:
    shown = [
        parse_study(text, "README.md", VARIABLES)
        for text in blocks((ROOT / "README.md").read_text(), "yaml")
        if set(yaml.safe_load(text)) >= STUDY
    ]
    assert shown == [load_study("math-sft-asha", VARIABLES)]


def test_every_command_is_in_the_readme() -> None:
    shown = {tuple(words[:2]) for words in commands((ROOT / "README.md").read_text())}
    program: Any = typer.main.get_command(app)
    for name, command in program.commands.items():
        for inner in getattr(command, "commands", []):
            assert (name, inner) in shown
        assert any(words[0] == name for words in shown if words)


def test_strange_commands_are_noticed() -> None:
    assert unknown(["run", "quickstart"]) is None
    assert unknown(["study", "forget", "x"]) == "forget"
    assert unknown(["status", "x", "--loud"]) == "--loud"


def test_reference_of_the_study_file_is_up_to_date() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "study-reference"), "--check"]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"run scripts/study-reference; {done.stderr}"
