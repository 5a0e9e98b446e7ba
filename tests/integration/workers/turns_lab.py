"""A study whose two workers are real, use one device and tell when they do."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warm import WarmProcess, start_hpo

from hpo.search.register import register
from hpo.spec.load import parse_study
from hpo.spec.study import StudySpec
from storage.database import Database

STUDY = """
name: {sharing}
objective: {{metric: loss, direction: minimize}}
model: {{path: {folder}/model, dtype: float32}}
data:
  train: {{path: {folder}/data/train.jsonl}}
  loss: {{path: {folder}/data/valid.jsonl, samples: 100}}
  separator: ""
training:
  optimizer:
    type: adamw
    learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
  effective_batch_size: {{choices: [4, 8]}}
  max_examples: {examples}
  max_length: 32
evaluation: {{every: {{examples: 80}}, sharing: {sharing}}}
sampler: {{type: tpe, seed: 3, startup_trials: 3}}
pruner: {{type: none}}
budget: {{trials: {trials}}}
"""
LEASE_SECONDS = 6.0

RUN = ("workers.trial.loop.run", "TrainingRun")
ENGINES = ("workers.evaluation.engines.engines", "EvaluationEngines")
COMPUTING = {
    "trial": ((*RUN, "__init__"), (*RUN, "train_batch"), (*RUN, "save_checkpoint")),
    "evaluation": ((*ENGINES, "load_weights"), (*ENGINES, "loss")),
}
"""The methods that use the device, by kind of worker."""


@dataclass(frozen=True, order=True)
class Computing:
    """One call that used the device."""

    begin: float
    end: float
    kind: str


@dataclass
class WatchedStudy:
    """One study in one database, and the workers that a test started for it."""

    url: str
    home: Path
    spec: StudySpec
    children: list[WarmProcess] = field(default_factory=list)

    @staticmethod
    def create(
        database: Database, inputs: Path, home: Path, sharing: str, trials: int, examples: int
    ) -> WatchedStudy:
        text = STUDY.format(folder=inputs, sharing=sharing, trials=trials, examples=examples)
        spec = parse_study(text, "study.yaml", {})
        register(database, spec, home)
        return WatchedStudy(database.url, home, spec)

    def start(self, kind: str) -> WarmProcess:
        """A worker as a process of its own."""
        lease = ("--lease-seconds", str(LEASE_SECONDS))
        child = start_hpo(
            ["worker", kind, "--study", self.spec.name, "--device", "cpu", *lease],
            folder=self.home,
            environment={**os.environ, "HPO_DATABASE_URL": self.url, "HPO_HOME": str(self.home)},
            out=self._file(f"{kind}.log"),
            before=functools.partial(watch, kind, self._file("journal")),
        )
        self.children.append(child)
        return child

    def log(self, kind: str) -> str:
        return self._file(f"{kind}.log").read_text()

    def computing(self) -> list[Computing]:
        """When the device was used, by begin; calls that were cut short are missing."""
        if not self._file("journal").exists():
            return []
        lines = [line.split() for line in self._file("journal").read_text().splitlines()]
        return sorted(Computing(float(begin), float(end), kind) for kind, begin, end in lines)

    def kill_all(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()

    def _file(self, name: str) -> Path:
        return self.home / f"{self.spec.name}-{name}"


def watch(kind: str, journal: Path) -> None:
    """Have this process write down each use of the device."""
    for module, owner, name in COMPUTING[kind]:
        holder = getattr(importlib.import_module(module), owner)
        setattr(holder, name, _recorded(getattr(holder, name), kind, journal))


def _recorded(method: Callable[..., Any], kind: str, journal: Path) -> Callable[..., Any]:
    @functools.wraps(method)
    def recorded(*arguments: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return method(*arguments, **options)
        finally:
            with journal.open("a") as file:
                file.write(f"{kind} {begin} {time.monotonic()}\n")

    return recorded


def overlapping(calls: list[Computing]) -> list[tuple[Computing, Computing]]:
    """Calls of different kinds that used the device at once."""
    return [
        (one, other)
        for place, one in enumerate(calls)
        for other in calls[place + 1 :]
        if other.begin < one.end and other.kind != one.kind
    ]
