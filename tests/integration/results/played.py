"""Plays a study's workers without training: asks, scores, decides and tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.results.snapshot import StudyView
from hpo.search.course import Ending, Outcome, Point, best_point
from hpo.search.graded import StoredAnswers, StoredItem, StoredSample, pack_answers, pack_set
from hpo.search.register import register
from hpo.search.study import StudySearch
from hpo.spec.load import parse_study
from storage.answers import AnswerStore
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


def graded_scores(loss: float, right: Sequence[bool]) -> dict[str, Any]:
    """What an evaluation worker stores that has graded the answers to ITEMS items."""
    correct = sum(right)
    half = ITEMS // 2
    return scores(loss, correct) | {
        "outcomes": [int(good) for good in right],
        "answers_total": ITEMS,
        "truncated": 1,
        "categories": {"wrong_answer": ITEMS - correct, "correct": correct},
        "measures": {"pass@1": correct / ITEMS},
        "by": {
            "level": {
                "easy": {"total": half, "accuracy": sum(right[:half]) / half},
                "hard": {"total": half, "accuracy": sum(right[half:]) / half},
            }
        },
        "items_hash": "sha256:items",
        "decoding": {"temperature": 0.0, "top_p": 1.0, "samples": 1, "seed": 0, "stop": []},
        "loss_by_length": [
            {"longest": 64, "examples": 5, "tokens": 70, "loss": loss},
            {"longest": None, "examples": 3, "tokens": 50, "loss": loss},
        ],
        "timings": {"total": 2.0, "load": 0.1, "generate": 1.5, "loss": 0.25},
        "memory": {"name": "together", "reason": "there is room for both"},
    }


def stored_items() -> list[StoredItem]:
    """The items of the generation set."""
    levels = ["easy"] * (ITEMS // 2) + ["hard"] * (ITEMS // 2)
    return [
        StoredItem(f"What is {i} + {i}?\n", str(2 * i), {"level": level})
        for i, level in enumerate(levels)
    ]


def stored_answers(right: Sequence[bool]) -> list[StoredAnswers]:
    """Answers to them."""
    return [
        StoredAnswers(i, (_sample(str(2 * i if good else 7), good),))
        for i, good in enumerate(right)
    ]


def _sample(number: str, good: bool) -> StoredSample:
    category = "correct" if good else "wrong_answer"
    return StoredSample(f"It is\n{number}", 3, False, category, float(good), number, "")


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

    def score_graded(
        self, lease: TrialLease | None, step: int, loss: float, right: Sequence[bool]
    ) -> Point:
        """Have a trial, or the base model for None, evaluated with graded answers."""
        AnswerStore(self.database, self.record.id).put_set(
            False, pack_set(stored_items()), "sha256:items"
        )
        result, address = graded_scores(loss, right), f"step-{step}"
        if lease is not None:
            self.queue.put(lease, step=step, examples=step * 100, rung=None, checkpoint=address)
        self._answer(result, pack_answers(stored_answers(right), 1 << 20))
        return Point(step, step * 100, None, address, result)

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

    def _answer(self, result: dict[str, Any], answers: bytes | None = None) -> None:
        request = self.queue.claim("scorer")
        assert request is not None
        self.queue.complete(request, result, lambda: False, answers=answers)
