"""A tiny study, trial workers as real processes, and a scripted evaluation worker."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warm import WarmProcess, start_hpo

from hpo.search.asha import verdicts
from hpo.search.register import register
from hpo.search.study import StudySearch
from hpo.spec.load import parse_study
from hpo.spec.study import StudySpec
from storage.checkpoints import Checkpoint
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.records import EvaluationRequest
from storage.trials import TrialLeases
from storage.workers import Workers
from workers.evaluation.score import Hooks, Scored
from workers.evaluation.scores import Scores, Timings
from workers.evaluation.worker import EvaluationWorker
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopSignal
from workers.tiny import make_arithmetic, make_model

LEASE_SECONDS = 20.0
OPTIONS = ("--device", "cpu", "--lease-seconds", str(LEASE_SECONDS))

STUDY = """
name: {name}
objective: {{metric: loss, direction: minimize}}
model: {{path: {folder}/model, dtype: float32}}
data:
  train: {{path: {folder}/data/train.jsonl}}
  loss: {{path: {folder}/data/valid.jsonl, samples: 40}}
  {generation}
  separator: ""
training:
  optimizer:
    type: adamw
    learning_rate: {learning_rate}
    weight_decay: {{low: 0.0, high: 0.3}}
  effective_batch_size: {{choices: [4, 8]}}
  max_examples: {max_examples}
  max_length: 32
evaluation: {{every: {{examples: {every}}}, kv_cache_mib: 16, max_num_seqs: 8}}
sampler: {{type: tpe, seed: 3, startup_trials: 3}}
pruner: {pruner}
budget: {{trials: {trials}}}
checkpoints: {checkpoints}
"""


def make_inputs(folder: Path) -> Path:
    """A tiny model and sums, below `folder`."""
    make_model(folder / "model")
    make_arithmetic(folder / "data", largest=20)
    return folder


@dataclass
class Lab:
    """One study in one database, and the processes that a test started for it."""

    url: str
    home: Path
    spec: StudySpec
    children: list[WarmProcess] = field(default_factory=list)

    @staticmethod
    def create(
        database: Database,
        inputs: Path,
        home: Path,
        *,
        name: str = "lab",
        trials: int = 7,
        max_examples: int = 216,
        learning_rate: str = "{low: 1.0e-5, high: 1.0e-1, log: true}",
        every: int = 1000,
        pruner: str = "{type: asha, reduction_factor: 3, min_resource: 24}",
        checkpoints: str = "{}",
        generation: str = "",
    ) -> Lab:
        text = STUDY.format(
            name=name,
            folder=inputs,
            trials=trials,
            max_examples=max_examples,
            learning_rate=learning_rate,
            every=every,
            pruner=pruner,
            checkpoints=checkpoints,
            generation=generation,
        )
        spec = parse_study(text, "study.yaml", {})
        register(database, spec, home)
        return Lab(database.url, home, spec)

    def start(self, kind: str = "trial", log: str = "worker.log") -> WarmProcess:
        """A worker as a process of its own."""
        child = start_hpo(
            ["worker", kind, "--study", self.spec.name, *OPTIONS],
            folder=self.home,
            environment={**os.environ, "HPO_DATABASE_URL": self.url, "HPO_HOME": str(self.home)},
            out=self.home / log,
        )
        self.children.append(child)
        return child

    def log(self, name: str = "worker.log") -> str:
        return (self.home / name).read_text()

    def kill_all(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()

    def options(self) -> WorkerOptions:
        """How a worker in this process is started."""
        return WorkerOptions(
            self.spec.name, self.url, "cpu", self.home / "data", lease_seconds=LEASE_SECONDS
        )

    @contextmanager
    def evaluator(self) -> Iterator[ScriptedEvaluator]:
        """An evaluation worker in this process whose scores are a formula."""
        with open_session("evaluation", self.options(), StopSignal()) as session:
            yield ScriptedEvaluator(session)


class ScriptedEvaluator:
    """Claims and answers requests when it is told to."""

    def __init__(self, session: StudySession) -> None:
        self.session = session
        self._current: EvaluationRequest | None = None
        self._worker = EvaluationWorker(session, {"validation": self, "test": self})

    most_together = 1

    def claim(self) -> EvaluationRequest | None:
        return self.session.queue.claim(self.session.worker_id)

    def answer(self, request: EvaluationRequest) -> None:
        self._current = request
        self._worker.answer(request)

    def free_dead_workers(self) -> None:
        """What the launcher does when it sees a worker die."""
        Workers(self.session.database).free_absent(self.session.record.id)

    def score(self, checkpoint: Checkpoint | None, hooks: Hooks) -> Scored:
        request = self._current
        assert request is not None
        if request.trial_id is None:
            return Scored(scores_of(5.0))
        trial = self.session.search.fresh(request.trial_id)
        return Scored(scores_of(formula(trial.params, request.examples)))

    def score_together(self, checkpoints: Sequence[Checkpoint], hooks: Hooks) -> list[Any]:
        raise AssertionError("one at a time was asked for")


def formula(parameters: dict[str, Any], examples: int) -> float:
    """A loss with its best learning rate at 1e-3 that falls with training."""
    distance = abs(math.log10(parameters["optimizer.learning_rate"]) + 3)
    return distance + parameters["optimizer.weight_decay"] + 10 / (10 + examples)


def scores_of(loss: float) -> Scores:
    return Scores(
        loss=loss,
        loss_total=100 * loss,
        loss_tokens=100,
        perplexity=math.exp(loss),
        timings=Timings(load=0, generate=0, grade=0, switch=0, loss=0, total=0),
    )


def story(database: Database, spec: StudySpec) -> dict[int, dict[str, Any]]:
    """Everything that was decided in a study, by trial."""
    search = StudySearch(database.optuna_storage(), spec)
    return {
        trial.number: {
            "parameters": trial.params,
            "state": trial.state.name,
            "value": trial.value,
            "reported": trial.intermediate_values,
            "verdicts": [v.as_dict() for _, v in sorted(verdicts(trial).items())],
            "outcome": trial.user_attrs.get("outcome"),
            "reason": trial.user_attrs.get("reason"),
        }
        for trial in search.study.get_trials()
    }


def queue_of(database: Database, spec: StudySpec) -> EvaluationQueue:
    study_id = StudySearch(database.optuna_storage(), spec).study._study_id
    return EvaluationQueue(database, study_id, seconds=LEASE_SECONDS)


def leases_of(database: Database, spec: StudySpec) -> TrialLeases:
    study_id = StudySearch(database.optuna_storage(), spec).study._study_id
    return TrialLeases(database, study_id, seconds=LEASE_SECONDS)
