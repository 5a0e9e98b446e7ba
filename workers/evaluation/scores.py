"""What is known about a checkpoint, as values and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from hpo.spec.study import Metric
from hpo.statistics.interval import accuracy_interval
from hpo.statistics.pass_at_k import pass_at_k
from workers.data.batches.loss import BucketLoss, LossResult
from workers.evaluation.sets import GenerationSet
from workers.evaluation.tasks.task import Graded

UNLABELLED = "(none)"
"""Where an item has no value of a field by which the accuracy is broken down."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one evaluation."""

    load: float
    """Verifying the checkpoint and putting it into both engines."""
    generate: float
    grade: float
    """Waiting for graders that were not done when the engines were."""
    switch: float
    """Handing the device over from one engine to the other."""
    loss: float
    """Forward passes."""
    total: float

    @property
    def overhead(self) -> float:
        """What is neither generation nor grading nor forward passes."""
        return self.total - self.generate - self.grade - self.loss


@dataclass(frozen=True)
class Share:
    """How often a group of items was answered rightly."""

    accuracy: float
    """Mean score of the items."""
    accuracy_low: float
    """Lower end of the 95 % interval."""
    accuracy_high: float
    interval: str
    """`wilson` where items are right or wrong, `bootstrap` where they score between."""
    correct: int
    """Items all of whose answers are right."""
    total: int
    """Items."""
    categories: dict[str, int]
    """Number of answers by category, in the grader's order."""

    @classmethod
    def of(cls, graded: Sequence[Graded], categories: Sequence[str]) -> Share:
        """Of at least one item; `categories` are listed first, whether or not they occur."""
        scores = [_mean_score(one) for one in graded]
        interval = accuracy_interval(scores)
        counts = Counter(grade.category for one in graded for grade in one.grades)
        return cls(
            accuracy=fmean(scores),
            accuracy_low=interval.low,
            accuracy_high=interval.high,
            interval=interval.method,
            correct=sum(score == 1 for score in scores),
            total=len(graded),
            categories={name: counts[name] for name in dict.fromkeys([*categories, *counts])},
        )


@dataclass(frozen=True)
class Answered:
    """What the answers to a generation set are worth."""

    share: Share
    outcomes: tuple[float, ...]
    """Mean score of each item's answers, in the order of the set."""
    answers_total: int
    truncated: int
    """Answers that reached the limit of tokens."""
    measures: dict[str, float]
    """What the task measures besides, and pass@k."""
    by: dict[str, dict[str, Share]]
    """Shares by field and value."""
    items_hash: str
    decoding: dict[str, Any]

    @classmethod
    def of(
        cls,
        items: GenerationSet,
        graded: Sequence[Graded],
        *,
        categories: Sequence[str],
        measures: Mapping[str, float],
        truncated: int,
    ) -> Answered:
        """Of all items of a set, in its order."""
        return cls(
            share=Share.of(graded, categories),
            outcomes=tuple(_mean_score(one) for one in graded),
            answers_total=sum(len(one.grades) for one in graded),
            truncated=truncated,
            measures={**measures, **_passes(graded, items.decoding.pass_at)},
            by={label: _by(label, graded, categories) for label in items.by},
            items_hash=items.hash,
            decoding={
                **items.decoding.model_dump(mode="json"),
                "max_new_tokens": items.max_new_tokens,
            },
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {
            "outcomes": [_short(score) for score in self.outcomes],
            "answers_total": self.answers_total,
            "truncated": self.truncated,
            "measures": self.measures,
            "by": {
                label: {value: asdict(share) for value, share in found.items()}
                for label, found in self.by.items()
            },
            "items_hash": self.items_hash,
            "decoding": self.decoding,
        }
        return asdict(self.share) | own


@dataclass(frozen=True)
class Scores:
    """What is known about a checkpoint."""

    loss: float
    """Σ token losses / Σ counted tokens; not finite when the model has diverged."""
    loss_total: float
    loss_tokens: int
    perplexity: float
    """exp(loss); infinite where that is too large."""
    timings: Timings
    loss_by_length: tuple[BucketLoss, ...] = ()
    answered: Answered | None = None
    """None without a generation set."""
    memory: Mapping[str, str] = field(default_factory=dict)
    """How the engines shared the device, and why."""
    reason: str | None = None
    """Why there is no finite loss, where that is known."""

    @classmethod
    def of(
        cls,
        loss: LossResult,
        buckets: Sequence[int],
        answered: Answered | None,
        timings: Timings,
        memory: Mapping[str, str],
    ) -> Scores:
        """Of a loss and of what the answers are worth."""
        return cls(
            loss=loss.mean,
            loss_total=loss.total,
            loss_tokens=loss.tokens,
            perplexity=loss.perplexity,
            timings=timings,
            loss_by_length=tuple(loss.by_length(buckets)),
            answered=answered,
            memory=memory,
        )

    @classmethod
    def diverged(cls, reason: str, timings: Timings) -> Scores:
        """Of weights that no loss can be computed with."""
        nan = float("nan")
        return cls(nan, nan, 0, nan, timings, reason=reason)

    def value(self, metric: Metric) -> float | None:
        """The metric that a study is decided by; None where it was not measured."""
        if metric == "loss":
            return self.loss
        return None if self.answered is None else self.answered.share.accuracy

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in which numbers that are not finite are words.

        JSON and Postgres know no NaN: `loss` may read `nan`, `inf` or `-inf`,
        which `float` understands.
        """
        plain = {
            "loss": _json_number(self.loss),
            "loss_total": _json_number(self.loss_total),
            "loss_tokens": self.loss_tokens,
            "perplexity": _json_number(self.perplexity),
            "loss_by_length": [_bucket(part) for part in self.loss_by_length],
            "timings": asdict(self.timings) | {"overhead": self.timings.overhead},
            "memory": dict(self.memory),
            "accuracy": None,
        }
        if self.reason is not None:
            plain["reason"] = self.reason
        return plain if self.answered is None else plain | self.answered.as_dict()


def _bucket(part: BucketLoss) -> dict[str, Any]:
    counts = {"longest": part.longest, "examples": part.examples, "tokens": part.tokens}
    return counts | {"loss": _json_number(part.total / part.tokens)}


def _mean_score(one: Graded) -> float:
    return fmean(grade.score for grade in one.grades)


def _by(label: str, graded: Sequence[Graded], categories: Sequence[str]) -> dict[str, Share]:
    groups: dict[str, list[Graded]] = {}
    for one in graded:
        groups.setdefault(one.item.labels.get(label, UNLABELLED), []).append(one)
    return {value: Share.of(groups[value], categories) for value in sorted(groups)}


def _passes(graded: Sequence[Graded], wanted: Sequence[int]) -> dict[str, float]:
    """Estimates of pass@k, the mean over the items."""
    right = [sum(grade.score == 1 for grade in one.grades) for one in graded]
    return {
        f"pass@{k}": fmean(
            pass_at_k(len(one.grades), good, k) for one, good in zip(graded, right, strict=True)
        )
        for k in wanted
    }


def _short(score: float) -> float | int:
    return int(score) if score in (0, 1) else round(score, 6)


def _json_number(value: float) -> float | str:
    return value if isfinite(value) else str(value)
