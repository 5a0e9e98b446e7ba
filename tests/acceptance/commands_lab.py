"""The command `hpo` as a person starts it, and study files for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warm import start_hpo

STUDY = """\
name: NAME
objective: {metric: loss, direction: minimize}
model: {path: INPUTS/model, dtype: float32}
data:
  train: {path: INPUTS/data/train.jsonl}
  loss: {path: INPUTS/data/valid.jsonl}
training:
  optimizer:
    type: adamw
    learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
  effective_batch_size: {choices: [16, 32]}
  max_examples: 320
evaluation: {every: {examples: 160}}
pruner: {type: asha, reduction_factor: 2, min_resource: 160}
budget: {trials: 3}
"""
SECONDS = 120.0
PROGRESS = "preparing data: "


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)

    def refusal(self) -> list[str]:
        """Its errors, without the word that leads each line.

        Asserts that it refused as it should: exit code 2 and nothing but
        clear lines.
        """
        assert self.code == 2, self
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if not line.startswith(PROGRESS)]
        assert lines
        assert all(line.startswith("error: ") for line in lines), self.err
        return [line.removeprefix("error: ") for line in lines]

    def done(self) -> str:
        """What it printed. Asserts that it succeeded without complaint."""
        # A slow machine is told how far it is.
        complaints = [line for line in self.err.splitlines() if not line.startswith(PROGRESS)]
        assert (self.code, complaints) == (0, []), self
        return self.out


@dataclass
class Hpo:
    """Runs commands over one state folder."""

    home: Path
    folder: Path
    """Where commands are started."""
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str | Path, **variables: str) -> Ended:
        """Run a command to its end, in a process that has its libraries imported."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = start_hpo(
                [*map(str, arguments)],
                folder=self.folder,
                environment=self._environment() | variables,
                out=out,
                err=err,
            )
            try:
                code = process.wait(SECONDS)
            finally:
                process.kill()
            return Ended(code, out.read_text(), err.read_text())

    def cold(self, *arguments: str | Path) -> Ended:
        """Run a command to its end, in a new interpreter."""
        return self.python("-m", "hpo", *map(str, arguments))

    def python(self, *arguments: str) -> Ended:
        """Run the interpreter itself."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HPO_", "GSM8K"))}
        # Wide enough that no line of a table is broken.
        return inherited | {"HPO_HOME": str(self.home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def write(self, name: str, *edits: tuple[str, str], file: str = "study.yaml") -> Path:
        """A study file over the quickstart's inputs, with texts replaced."""
        text = STUDY.replace("NAME", name)
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = self.folder / file
        path.write_text(text.replace("INPUTS", str(self.home / "quickstart")))
        return path
