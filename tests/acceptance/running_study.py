"""A real `hpo run` as a child process, watched through its database."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hpo.results.snapshot import Snapshot, StudyView
from hpo.search.register import find
from storage.database import Database
from storage.embedded import EmbeddedPostgres

STUDY = """
name: acceptance
objective: {{metric: loss, direction: minimize}}
model: {{path: "{inputs}/model", dtype: float32}}
data:
  train: {{path: "{inputs}/data/train.jsonl"}}
  loss: {{path: "{inputs}/data/valid.jsonl", samples: 100}}
  {answers}
  cleaning: {{}}
  separator: ""
training:
  optimizer:
    type: adamw
    learning_rate: {{low: 1.0e-5, high: 1.0e-1, log: true}}
    weight_decay: {{low: 0.0, high: 0.3}}
  effective_batch_size: {{choices: [8, 16]}}
  max_examples: 7290
  max_length: 32
evaluation:
  every: {{examples: 2430}}
  early_stopping: {{patience: 2, min_delta: 0.001}}
sampler: {{type: tpe, seed: 1, startup_trials: 3}}
pruner: {{type: asha, reduction_factor: 3, min_resource: 270}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{project: acceptance, mode: offline, directory: "{wandb}"}}}}
"""
ANSWERS = """
  generation:
    {{path: "{inputs}/data/valid.jsonl", samples: 40, task: exact, max_new_tokens: 6}}
  test: {{fraction: 0.05, seed: 1, task: exact, max_new_tokens: 6}}
"""


@dataclass
class RunningStudy:
    """One state folder, one study file, and the runs that a test started."""

    home: Path
    inputs: Path
    trials: int = 6
    answers: bool = True
    """Whether checkpoints are scored by their answers too, which starts vLLM."""
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The study file, written anew with the present budget."""
        file = self.home / "study.yaml"
        wandb = self.home / "tracking"
        wandb.mkdir(exist_ok=True)
        answers = ANSWERS.strip().format(inputs=self.inputs) if self.answers else ""
        text = STUDY.format(inputs=self.inputs, trials=self.trials, wandb=wandb, answers=answers)
        file.write_text(text)
        return file

    @property
    def results(self) -> dict[str, Any]:
        """The exported results."""
        text = (self.home / "out" / "study_results.yaml").read_text()
        content: dict[str, Any] = yaml.safe_load(text)
        return content

    def start(self) -> subprocess.Popen[str]:
        """`hpo run` in the background."""
        command = [sys.executable, "-m", "hpo", "run", str(self.file)]
        command += ["--output", str(self.home / "out"), "--no-dashboard"]
        run = subprocess.Popen(
            command,
            env={**os.environ, "HPO_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,
        )
        self.runs.append(run)
        return run

    def finish(self, run: subprocess.Popen[str], seconds: float = 180) -> str:
        """Wait for a run and return what it printed."""
        shown, _ = run.communicate(timeout=seconds)
        return shown

    @contextmanager
    def watched(self) -> Iterator[Callable[[], Snapshot]]:
        """Snapshots of the study, once it exists."""
        with (
            EmbeddedPostgres(self.home / "postgres") as server,
            Database.open(server.url) as database,
        ):
            wait_until(lambda: _exists(database))

            def look() -> Snapshot:
                return StudyView(database, find(database, "acceptance")).read()

            yield look

    def end_all(self) -> None:
        """Stop what a failed test left running."""
        for run in self.runs:
            if run.poll() is None:
                run.send_signal(signal.SIGINT)
                try:
                    run.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.communicate()


def as_from_a_terminal() -> None:
    """In a child: background jobs ignore SIGINT, nohup SIGHUP, and what they start does too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _exists(database: Database) -> bool:
    from storage.studies import Studies

    return Studies(database).get("acceptance") is not None


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Look again and again; asserts that it comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def wandb_history(folder: Path) -> dict[str, set[str]]:
    """Metric names by W&B run, read from the files of the offline mode."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, set[str]] = {}
    for file in folder.glob("wandb/offline-run-*/run-*.wandb"):
        names = found.setdefault(file.stem.removeprefix("run-"), set())
        for data in _log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            names.update(item.nested_key[0] for item in record.history.item)
            if record.HasField("run"):
                names.add(f"group:{record.run.run_group}")
    return found


def _log_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, which the files have after 7 bytes of their own."""
    block, header, position, record = 32768, 7, 7, b""
    full, last = 1, 4
    while position + header <= len(data):
        left = block - position % block
        if left < header:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + header])
        record += data[position + header : position + header + length]
        position += header + length
        if kind in (full, last):
            yield record
            record = b""
