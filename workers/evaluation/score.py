"""Scoring one checkpoint: weights in, answers graded, loss summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hpo.statistics.wilson import wilson_interval
from storage.checkpoints import Checkpoint
from workers.evaluation.grading.grader import Grader, Task

if TYPE_CHECKING:
    from workers.data.tokens.encoded import EncodedExample
    from workers.evaluation.engines.engines import EvaluationEngines

_KEPT_ANSWERS = 8
_KEPT_CHARACTERS = 400


@dataclass(frozen=True)
class GenerationSet:
    """Prompts on which answers are generated, with what they are graded against."""

    prompts: Sequence[Sequence[int]]
    """Token ids."""
    references: Sequence[str]
    task: Task
    max_new_tokens: int
    perfect: Sequence[str] = ()
    """What a model that learned the items would answer."""
    stop_token_ids: Sequence[int] = ()
    """End tokens besides the model's own, such as a chat template's."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its answer."""
        return max((len(prompt) for prompt in self.prompts), default=0) + self.max_new_tokens


@dataclass(frozen=True)
class EvaluationSets:
    """The frozen sets of a study."""

    loss: Sequence[EncodedExample]
    generation: GenerationSet | None = None


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one evaluation."""

    load: float
    """Verifying the checkpoint and putting it into both engines."""
    generate: float
    grade: float
    loss: float
    """Forward passes, and on a GPU handing the memory over."""
    total: float

    @property
    def overhead(self) -> float:
        """What is neither generation nor forward passes."""
        return self.total - self.generate - self.loss


@dataclass(frozen=True)
class Scores:
    """What is known about a checkpoint; the accuracy's part is None without a generation set."""

    loss: float
    """Σ token losses / Σ counted tokens; not finite when the model has diverged."""
    loss_total: float
    loss_tokens: int
    perplexity: float
    """exp(loss); infinite where that is too large."""
    accuracy: float | None
    accuracy_low: float | None
    """Lower end of the 95 % Wilson interval."""
    accuracy_high: float | None
    correct: int | None
    total: int | None
    outcomes: tuple[bool, ...]
    """Whether each answer was right, in the order of the set."""
    answers: tuple[str, ...]
    """The first few answers, cut short."""
    timings: Timings

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in which numbers that are not finite are words.

        JSON and Postgres know no NaN: `loss` may read `nan`, `inf` or `-inf`,
        which `float` understands.
        """
        plain = asdict(self)
        plain["timings"]["overhead"] = self.timings.overhead
        for key in ("loss", "loss_total", "perplexity"):
            plain[key] = _json_number(plain[key])
        return plain | {"outcomes": list(self.outcomes), "answers": list(self.answers)}


@dataclass(frozen=True)
class _Accuracy:
    value: float | None = None
    low: float | None = None
    high: float | None = None
    correct: int | None = None
    total: int | None = None
    outcomes: tuple[bool, ...] = ()
    answers: tuple[str, ...] = ()


class _Clock:
    """Seconds per named phase."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._seconds = {"load": 0.0, "generate": 0.0, "grade": 0.0, "loss": 0.0}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self._seconds[name] += perf_counter() - started

    def timings(self) -> Timings:
        return Timings(**self._seconds, total=perf_counter() - self._started)


def score(
    engines: EvaluationEngines,
    grader: Grader,
    checkpoint: Checkpoint | None,
    sets: EvaluationSets,
    *,
    tokens_per_batch: int,
    most: int | None = None,
    on_progress: Callable[[], None] | None = None,
) -> Scores:
    """Score a checkpoint, or the base model for None, on the evaluation sets.

    `tokens_per_batch` are the padded tokens of one forward pass of the loss,
    `most` its examples, where they are limited.
    `on_progress` is called many times a second; what it raises ends the
    evaluation.

    Raises CheckpointError when the checkpoint is missing, damaged or does not
    fit the base model; the engines are ready for the next one.
    """
    clock = _Clock()
    with clock.phase("load"):
        engines.load_weights(checkpoint)
    accuracy = _Accuracy()
    if sets.generation is not None:
        accuracy = _measure_accuracy(engines, grader, sets.generation, clock, on_progress)
    with clock.phase("loss"):
        loss = engines.loss(
            sets.loss, tokens_per_batch=tokens_per_batch, most=most, on_progress=on_progress
        )
    return Scores(
        loss=loss.mean,
        loss_total=loss.total,
        loss_tokens=loss.tokens,
        perplexity=loss.perplexity,
        accuracy=accuracy.value,
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        correct=accuracy.correct,
        total=accuracy.total,
        outcomes=accuracy.outcomes,
        answers=accuracy.answers,
        timings=clock.timings(),
    )


def _measure_accuracy(
    engines: EvaluationEngines,
    grader: Grader,
    items: GenerationSet,
    clock: _Clock,
    on_progress: Callable[[], None] | None,
) -> _Accuracy:
    with clock.phase("generate"):
        answers = engines.generate(
            items.prompts,
            max_new_tokens=items.max_new_tokens,
            stop_token_ids=items.stop_token_ids,
            on_progress=on_progress,
        )
    with clock.phase("grade"):
        outcomes = grader.grade(items.task, answers, items.references, on_progress)
    correct, total = sum(outcomes), len(outcomes)
    low, high = wilson_interval(correct, total)
    return _Accuracy(
        value=correct / total if total else None,
        low=low,
        high=high,
        correct=correct,
        total=total,
        outcomes=tuple(outcomes),
        answers=tuple(answer[:_KEPT_CHARACTERS] for answer in answers[:_KEPT_ANSWERS]),
    )


def _json_number(value: float) -> float | str:
    return value if isfinite(value) else str(value)
