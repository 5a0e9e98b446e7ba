"""Plays a study's workers without training: asks, scores, decides and tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.results.snapshot import StudyView
from hpo.search.course import Ending, Outcome, Point, best_point
from hpo.search.register import register
from hpo.search.study import StudySearch
from hpo.spec.load import parse_study
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.trials import TrialLease, TrialLeases

STUDY = """\
name: played
objective: {metric: loss, direction: minimize}
model: {path: user/model}
data:
  train: {path: user/train}
  loss: {path: user/valid}
  generation: {path: user/valid}
training:
  method: {choices: [{type: full}, {type: lora, rank: {choices: [8, 16]}}]}
  optimizer:
    learning_rate: {low: 1e-5, high: 1e-1, log: true}
  effective_batch_size: {choices: [8, 16]}
  schedule: {type: cosine, warmup_ratio: 0.1}
  max_examples: 900
evaluation: {every: {examples: 100}}
sampler: {type: random, seed: 0}
pruner: {type: asha, reduction_factor: 3, min_resource: 100}
budget: {trials: 6}
"""
SECONDS = 60.0
ITEMS = 8
Evaluation = tuple[int, int | None, float | str, int]
"""Step, rung, loss and number of right answers."""


def scores(loss: float | str, correct: int) -> dict[str, Any]:
    """What an evaluation worker stores."""
    return {
        "loss": loss,
        "perplexity": 3.5,
        "loss_tokens": 120,
        "accuracy": correct / ITEMS,
        "accuracy_low": 0.125,
        "accuracy_high": 0.875,
        "correct": correct,
        "total": ITEMS,
    }


class PlayedStudy:
    """A registered study and its workers' tools."""

    def __init__(self, database: Database, home: Path, text: str = STUDY) -> None:
        self.database = database
        self.spec = parse_study(text, "study.yaml", {})
        self.record, _ = register(database, self.spec, home)
        self.search = StudySearch(database.optuna_storage(), self.spec)
        self.trials = TrialLeases(database, self.record.id, seconds=SECONDS)
        self.queue = EvaluationQueue(database, self.record.id, seconds=SECONDS)

    @property
    def view(self) -> StudyView:
        """The study as the commands see it."""
        return StudyView(self.database, self.record)

    def lease(self, worker: str = "trainer") -> TrialLease:
        """Take up the next trial."""
        lease = self.trials.acquire(
            worker, budget=100, orphans=self.search.running, ask=self.search.ask
        )
        assert lease is not None
        return lease

    def score_base(self, *, loss: float, correct: int) -> None:
        """Answer the base model's request."""
        self._answer(scores(loss, correct))

    def play(self, number: int, evaluations: Sequence[Evaluation], outcome: str) -> None:
        """Take a trial from ask to tell."""
        lease = self.lease()
        assert lease.number == number
        points = [self.score(lease, *evaluation) for evaluation in evaluations]
        best = best_point(points, self.spec)
        ending = Ending(Outcome(outcome), f"why it was {outcome}", best)
        self.search.tell(lease.trial_id, ending)
        self.trials.finish(lease, outcome, ending.reason)

    def score(
        self, lease: TrialLease, step: int, rung: int | None, loss: float | str, correct: int
    ) -> Point:
        """Ask for an evaluation, answer it and decide its rung."""
        address = f"trial-{lease.number:05d}/step-{step}"
        folder = Path(self.record.checkpoints) / address
        folder.mkdir(parents=True)
        self.queue.put(lease, step=step, examples=step * 100, rung=rung, checkpoint=address)
        self._answer(scores(loss, correct))
        if rung is not None and isinstance(loss, float):
            self.search.verdict(lease.trial_id, rung, loss)
        return Point(step, step * 100, rung, address, scores(loss, correct))

    def _answer(self, result: dict[str, Any]) -> None:
        request = self.queue.claim("scorer")
        assert request is not None
        self.queue.complete(request, result, lambda: False)
