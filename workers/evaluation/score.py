"""Scoring one checkpoint: weights in, answers graded while others are written, loss summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter

from hpo.search.graded import StoredAnswers, StoredSample, pack_answers
from hpo.spec.study import EvaluationSpec
from storage.checkpoints import Checkpoint, CheckpointError
from workers.evaluation.engines.engines import EvaluationEngines, Generated
from workers.evaluation.engines.weights import NotFinite
from workers.evaluation.grading.pool import Grading, GradingPool
from workers.evaluation.scores import Answered, Scores, Timings
from workers.evaluation.sets import EvaluationSets, GenerationSet
from workers.evaluation.tasks.task import NOT_ASKED, Grade, Graded

KIB = 1024
Written = dict[tuple[int, int], Generated]
"""Answers by item and sample."""
PHASES = ("load", "generate", "grade", "switch", "loss")


@dataclass(frozen=True)
class Hooks:
    """What is to be heard of an evaluation while it goes on."""

    progress: Callable[[], None]
    """Called many times a second between batches; what it raises ends the evaluation."""
    phase: Callable[[str], None]
    """Told what begins."""
    through: Callable[[], AbstractContextManager[None]] = nullcontext
    """Surrounds a long call that reports no progress."""


@dataclass(frozen=True)
class Scored:
    """A checkpoint's scores, and its graded answers as they are stored."""

    scores: Scores
    answers: bytes | None = None
    """None where no answers were generated, or none are to be kept."""


class Clock:
    """Wall-clock seconds by phase of one evaluation."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self._on_phase = on_phase
        self._started = perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def add(self, name: str, seconds: float) -> None:
        """Count what was done before, for several checkpoints at once."""
        self._seconds[name] += seconds
        self._started -= seconds

    @contextmanager
    def phase(self, name: str, shown: str | None = None) -> Iterator[None]:
        """Count the time inside; people are shown what begins, where it is given."""
        if shown is not None:
            self._on_phase(shown)
        started = perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += perf_counter() - started

    def timings(self) -> Timings:
        """What was counted until now."""
        return Timings(**self._seconds, total=perf_counter() - self._started)


@dataclass
class Answers:
    """One checkpoint's answers to a set, graded while others are written."""

    items: GenerationSet
    grading: Grading
    texts: Written = field(default_factory=dict)

    def take(self, index: int, sample: int, answer: Generated) -> None:
        """An answer is finished: grading it begins."""
        self.texts[index, sample] = answer
        self.grading.submit(index, sample, answer.text)

    def graded(self, on_progress: Callable[[], None]) -> list[Graded]:
        """All items with their grades, once the graders are done."""
        grades = self.grading.grades(on_progress)
        return [self._graded(index, grades[index]) for index in range(len(self.items.items))]

    def _graded(self, index: int, grades: Sequence[Grade]) -> Graded:
        asked = range(self.items.decoding.samples)
        if not grades:
            length = len(self.items.prompts[index])
            grade = Grade(NOT_ASKED, 0.0, detail=f"a prompt of {length} tokens leaves no room")
            return Graded(self.items.items[index], [""] * len(asked), [grade] * len(asked))
        answers = [self.texts[index, sample].text for sample in asked]
        return Graded(self.items.items[index], answers, grades)

    @property
    def truncated(self) -> int:
        """Answers that reached the limit of tokens."""
        return sum(answer.truncated for answer in self.texts.values())

    def stored(self, graded: Sequence[Graded]) -> list[StoredAnswers]:
        """The answers as people are shown them later."""
        return [
            StoredAnswers(
                index,
                tuple(
                    self._sample(index, sample, grade) for sample, grade in enumerate(one.grades)
                ),
            )
            for index, one in enumerate(graded)
        ]

    def _sample(self, index: int, sample: int, grade: Grade) -> StoredSample:
        answer = self.texts.get((index, sample), Generated("", (), False))
        return StoredSample(
            text=answer.text,
            tokens=len(answer.token_ids),
            truncated=answer.truncated,
            category=grade.category,
            score=grade.score,
            extracted=grade.extracted,
            detail=grade.detail,
        )


class Evaluator:
    """Scores checkpoints on one of the study's sets."""

    def __init__(
        self,
        engines: EvaluationEngines,
        pool: GradingPool,
        sets: EvaluationSets,
        spec: EvaluationSpec,
    ) -> None:
        self._engines = engines
        self._pool = pool
        self._sets = sets
        self._spec = spec

    @property
    def most_together(self) -> int:
        """Adapters that are scored in one go."""
        return self._engines.most_together if self._sets.generation is not None else 1

    def score(
        self,
        checkpoint: Checkpoint | None,
        hooks: Hooks,
    ) -> Scored:
        """Score a checkpoint, or the base model for None.

        Weights that are not finite give scores that say so.

        Raises CheckpointError when the checkpoint is damaged or does not fit
        the base model; the engines are ready for the next one.
        """
        return self._score(checkpoint, hooks, Clock(hooks.phase))

    def score_together(
        self,
        checkpoints: Sequence[Checkpoint],
        hooks: Hooks,
    ) -> list[Scored | CheckpointError]:
        """Score several adapters, whose answers come from one run of the engine."""
        written: list[Written] = [{} for _ in checkpoints]

        def take(which: int, index: int, sample: int, answer: Generated) -> None:
            written[which][index, sample] = answer

        items = self._sets.generation
        assert items is not None
        shared = Clock(hooks.phase)
        try:
            with shared.phase("generate", "generating"):
                self._engines.generate_together(checkpoints, items.writing, take, hooks.progress)
        except CheckpointError:
            # Which of them is to blame shows when each is scored alone.
            return [self._alone(one, hooks, Clock(hooks.phase)) for one in checkpoints]
        seconds = shared.timings().total / len(checkpoints)
        found: list[Scored | CheckpointError] = []
        for checkpoint, answers in zip(checkpoints, written, strict=True):
            clock = Clock(hooks.phase)
            clock.add("generate", seconds)
            found.append(self._alone(checkpoint, hooks, clock, answers))
        return found

    def _alone(
        self,
        checkpoint: Checkpoint,
        hooks: Hooks,
        clock: Clock,
        written: Written | None = None,
    ) -> Scored | CheckpointError:
        try:
            return self._score(checkpoint, hooks, clock, written)
        except CheckpointError as error:
            return error

    def _score(
        self,
        checkpoint: Checkpoint | None,
        hooks: Hooks,
        clock: Clock,
        written: Written | None = None,
    ) -> Scored:
        """Score a checkpoint; `written` are its answers, where they are there already."""
        try:
            with clock.phase("load", "loading the weights"), hooks.through():
                self._engines.load_weights(checkpoint, generation=written is None)
        except NotFinite as error:
            return Scored(Scores.diverged(str(error), clock.timings()))
        with ExitStack() as stack:
            answers = self._begin(stack)
            if answers is not None and written is not None:
                for (index, sample), answer in written.items():
                    answers.take(index, sample, answer)
            elif answers is not None:
                with clock.phase("generate", "generating"):
                    self._engines.generate(answers.items.writing, answers.take, hooks.progress)
            return self._finish(answers, hooks, clock)

    def _begin(self, stack: ExitStack) -> Answers | None:
        items = self._sets.generation
        if items is None:
            return None
        grading = stack.enter_context(self._pool.begin(items.task, items.items))
        return Answers(items, grading)

    def _finish(self, answers: Answers | None, hooks: Hooks, clock: Clock) -> Scored:
        """The loss of the weights that are loaded, while the last answers are graded."""
        with clock.phase("switch"):
            self._engines.to_loss()
        with clock.phase("loss", "computing the loss"):
            loss = self._engines.loss(
                self._sets.loss,
                tokens_per_batch=self._spec.tokens_per_batch,
                most=self._spec.batch_size,
                on_progress=hooks.progress,
            )
        answered, packed = None, None
        if answers is not None:
            with clock.phase("grade", "grading"):
                graded = answers.graded(hooks.progress)
                answered = self._worth(answers, graded)
            packed = self._packed(answers, graded)
        arrangement = self._engines.arrangement
        memory = {"name": arrangement.name, "reason": arrangement.reason}
        buckets = self._spec.length_buckets
        return Scored(Scores.of(loss, buckets, answered, clock.timings(), memory), packed)

    def _worth(self, answers: Answers, graded: Sequence[Graded]) -> Answered:
        return Answered.of(
            answers.items,
            graded,
            categories=answers.grading.categories,
            measures=answers.grading.measures(graded),
            truncated=answers.truncated,
        )

    def _packed(self, answers: Answers, graded: Sequence[Graded]) -> bytes | None:
        limit = self._spec.answers_kib * KIB
        return pack_answers(answers.stored(graded), limit) if limit else None
