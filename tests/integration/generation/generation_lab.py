"""The real command `hpo data generate`, on a tiny model and a few prompts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from workers.tiny import make_model

SECONDS = 120.0
FILE = """\
model: {path: INPUTS/model, dtype: float32}
prompts:
  - {path: INPUTS/prompts.jsonl, prompt: question, response: answers, level: level}
levels:
  A1: {system_prompt: You teach beginners., max_new_tokens: 120, temperature: 0.8, top_p: 0.9}
  C2: {max_new_tokens: 150, temperature: 1.0}
output: OUTPUT
seed: 42
attempts: 2
checks: {allow_truncated: true, min_characters: 100}
engine: {batch: 5, kv_cache_mib: 32}
"""
LONG = 18
"""Number of the row whose prompt does not fit."""


def make_inputs(folder: Path) -> Path:
    """A model, 36 prompts of two levels, one far too long, and 4 rows with human responses."""
    make_model(folder / "model")
    rows: list[dict[str, Any]] = [
        {"question": f"How do I say {number} in Italian?", "level": "A1" if number % 3 else "C2"}
        for number in range(1, 41)
    ]
    rows[LONG - 1]["question"] = "Why? " * 500
    for number in (1, 11, 21, 31):
        rows[number]["answers"] = [f"Like this: {number}.", f"Or like that: {number}!"]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "prompts.jsonl").write_text("".join(lines))
    return folder


@dataclass
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str


@dataclass
class Generating:
    """One file, one output folder and the commands that a test started."""

    inputs: Path
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write(self, *edits: tuple[str, str]) -> Path:
        """The file, with texts replaced."""
        text = FILE
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = self.folder / "generate.yaml"
        text = text.replace("INPUTS", str(self.inputs)).replace("OUTPUT", str(self.output))
        file.write_text(text)
        return file

    def start(
        self, *edits: tuple[str, str], file: str | None = None, device: str = "cpu"
    ) -> subprocess.Popen[str]:
        """The command in the background."""
        command = [sys.executable, "-m", "hpo", "data", "generate"]
        process = subprocess.Popen(
            [*command, file or str(self.write(*edits)), "--device", device],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,
        )
        self.started.append(process)
        return process

    def run(self, *edits: tuple[str, str]) -> Ended:
        """The command to its end."""
        return self.end(self.start(*edits))

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for a command."""
        out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out, err)

    def text(self, name: str) -> str:
        """What a file of the output folder holds."""
        file = self.output / name
        return file.read_text() if file.exists() else ""

    def lines(self, name: str) -> list[Any]:
        """Its whole lines, which end with a line break and nothing else."""
        return [json.loads(line) for line in self.text(name).split("\n")[:-1]]

    def count(self, source: str) -> int:
        """Responses of a source."""
        return sum(line["source"] == source for line in self.lines("responses.jsonl"))

    def end_all(self) -> None:
        """Kill what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                for child in children(process):
                    child.kill()
                process.kill()
                process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a command started."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again; asserts that it comes true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def _as_from_a_terminal() -> None:
    # Background jobs ignore SIGINT, and what they start does too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
