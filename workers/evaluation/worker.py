"""The evaluation worker: engines built once, one checkpoint after another."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Protocol

from hpo.spec.errors import InputError
from hpo.spec.sources import GenerationData
from storage.checkpoints import Checkpoint, CheckpointError
from storage.errors import LeaseLost
from storage.records import EvaluationRequest
from workers.data.example import Example
from workers.data.preparing.prepared import PreparedData
from workers.data.preparing.survey import load_encoder
from workers.data.tokens.encoded import EncodedExample
from workers.data.tokens.encoder import Encoder
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.grading.grader import Grader
from workers.evaluation.score import EvaluationSets, GenerationSet, Scores, score
from workers.renewal import Renewer
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopRequested, StopSignal

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
MATHS_CHECKED = 16
"""Items whose own answers are judged at the start; a judge takes 30 ms for each."""
VALIDATION, TEST = "validation", "test"
"""Names of the sets: what trials are judged by, and what only the winner is scored on."""


def serve_evaluations(options: WorkerOptions, stop: StopSignal) -> None:
    """Answer a study's requests until it is over or a stop is asked for."""
    with open_session("evaluation", options, stop) as session:
        if session.trials_over() and not session.tests_pending():
            return
        session.phase("preparing the evaluation sets")
        sets = load_sets(session)
        session.phase("building the engines")
        engines = load_engines(session, sets, options.device)
        try:
            with Grader() as grader:
                for name, items in answered(sets):
                    require_gradable(grader, items, f"data.{name}")
                scorers: dict[str, Scorer] = {
                    name: partial(
                        score,
                        engines,
                        grader,
                        sets=part,
                        tokens_per_batch=session.spec.evaluation.tokens_per_batch,
                        most=session.spec.evaluation.batch_size,
                    )
                    for name, part in sets.items()
                }
                EvaluationWorker(session, scorers).run()
        finally:
            engines.close()


class Scorer(Protocol):
    """Scores a checkpoint, or the base model for None."""

    def __call__(
        self, checkpoint: Checkpoint | None, /, *, on_progress: Callable[[], None]
    ) -> Scores:
        """`on_progress` is called between batches; what it raises ends the scoring.

        Raises CheckpointError for a checkpoint that cannot be scored.
        """


@dataclass
class EvaluationWorker:
    """Claims a request, scores its checkpoint, reports to the study."""

    session: StudySession
    scorers: Mapping[str, Scorer]
    """One for each of the sets, `validation` and perhaps `test`."""

    def run(self) -> None:
        """Answer requests until the study is over or stopped."""
        while not self.session.stopped():
            request = self.session.queue.claim(self.session.worker_id)
            if request is not None:
                self.answer(request)
            elif self.session.trials_over() and not self.session.tests_pending():
                return
            else:
                self.session.phase("waiting for a checkpoint")
                self.session.listener.wait(IDLE_SECONDS)

    def answer(self, request: EvaluationRequest) -> None:
        """Score one request; whatever happens, the next one can be answered."""
        self.session.phase(f"scoring {describe(request)}")
        try:
            scores = self._score(request)
            self.session.queue.complete(
                request, scores.as_dict(), lambda: self._report(request, scores)
            )
            logger.info("%s: %s", describe(request), summary(scores))
        except CheckpointError as error:
            self._refuse(request, error)
        except StopRequested:
            self.session.queue.release(request)
        except LeaseLost:
            logger.info("%s is no longer wanted", describe(request))
            # Nothing is left to give back but the pin on its checkpoint.
            self.session.queue.release(request)

    def _score(self, request: EvaluationRequest) -> Scores:
        renewer = Renewer(lambda: self.session.queue.renew(request), self.session.lease_seconds)

        def progress() -> None:
            self.session.stop.check()
            renewer()

        checkpoint = None
        if request.checkpoint is not None:
            with renewer.through():
                checkpoint = self.session.checkpoints.open(request.checkpoint)
        scorer = self.scorers[TEST if request.test else VALIDATION]
        return scorer(checkpoint, on_progress=progress)

    def _refuse(self, request: EvaluationRequest, error: CheckpointError) -> None:
        """Fail a request, unless this worker sees no checkpoint at all.

        Raises InputError then: no trial is to blame.
        """
        try:
            self.session.require_checkpoints()
        except InputError:
            self.session.queue.release(request)
            raise
        logger.error("%s: %s", describe(request), error)
        self.session.queue.fail(request, str(error), retry=False)

    def _report(self, request: EvaluationRequest, scores: Scores) -> bool:
        """Report a rung's value to the study when it is the trial's turn."""
        if request.test:
            return False
        value = getattr(scores, self.session.spec.objective.metric)
        if request.trial_id is None:
            self.session.search.note_base(scores.as_dict())
        if request.rung is None or request.trial_id is None or request.number is None:
            return False
        if not math.isfinite(value):
            return False
        records = self.session.queue.for_trial(request.number)
        earlier = [r.rung for r in records if r.rung is not None and r.step < request.step]
        return self.session.search.report(request.trial_id, request.rung, value, earlier)


def load_sets(session: StudySession) -> dict[str, EvaluationSets]:
    """Prepare the evaluation sets, once: `validation`, and `test` where there is one.

    Raises InputError when one is missing or malformed.
    """
    data = session.spec.data
    prepared = session.data()
    encoder = load_encoder(session.spec.model.path, data, prepared.shots)
    max_length = max(session.search.max_lengths())
    items = {
        name: _items(prepared, name, part, encoder) for name, part in data.answered_sets().items()
    }
    losses = {VALIDATION: "loss", TEST: "test"} if data.test is not None else {VALIDATION: "loss"}
    return {
        name: EvaluationSets(
            _loss_set(prepared, loss, max_length),
            items.get("generation" if name == VALIDATION else "test"),
        )
        for name, loss in losses.items()
    }


def _loss_set(prepared: PreparedData, name: str, max_length: int) -> Sequence[EncodedExample]:
    cut = prepared.encoded(name).cut(max_length)
    if cut.truncated or cut.dropped:
        logger.warning(
            "%s set: %d examples cut and %d left out at %d tokens",
            name,
            cut.truncated,
            cut.dropped,
            max_length,
        )
    if not len(cut.examples):
        raise InputError(
            f"data.{name}: nothing that is learned is left of it at {max_length} tokens; "
            "allowed: a larger training.max_length"
        )
    return cut.examples


def _items(
    prepared: PreparedData, name: str, spec: GenerationData, encoder: Encoder
) -> GenerationSet:
    examples = prepared.examples(name)
    return GenerationSet(
        prompts=[encoder.encode_prompt(example) for example in examples],
        references=[_reference(example, spec, encoder) for example in examples],
        perfect=[encoder.answer_text(example) for example in examples],
        task=spec.task,
        max_new_tokens=spec.max_new_tokens,
        stop_token_ids=[encoder.end_token],
    )


def _reference(example: Example, spec: GenerationData, encoder: Encoder) -> str:
    """What an answer is graded against: to the letter, the answer as the layout has it."""
    return encoder.answer_text(example) if spec.task == "exact" else example.completion


def answered(sets: Mapping[str, EvaluationSets]) -> Iterator[tuple[str, GenerationSet]]:
    """The sets for which answers are generated, by their name in the study file."""
    for name, part in sets.items():
        if part.generation is not None:
            yield "generation" if name == VALIDATION else name, part.generation


def require_gradable(grader: Grader, items: GenerationSet, name: str) -> None:
    """Refuse a set whose own answers, as the layout has them, would be graded wrong.

    A study would otherwise be decided by a grader that rejects what is right.
    Raises InputError.
    """
    number = MATHS_CHECKED if items.task == "math" else len(items.references)
    answers, references = items.perfect[:number], items.references[:number]
    right = grader.grade(items.task, answers, references)
    wrong = next((index for index, good in enumerate(right) if not good), None)
    if wrong is not None:
        raise InputError(
            f"{name}.task: given {items.task!r}, by which the item's own answer "
            f"{shorten(answers[wrong], 80)!r} is wrong against {shorten(references[wrong], 80)!r}; "
            "allowed: a task that goes with data.template and the completions"
        )


def load_engines(
    session: StudySession, sets: dict[str, EvaluationSets], device: str
) -> EvaluationEngines:
    """Build the engines on the base model, once, long enough for every set."""
    every = [part.generation for part in sets.values() if part.generation is not None]
    longest = max((items.longest for items in every), default=0)
    return EvaluationEngines.load(
        session.spec.model,
        session.spec.evaluation,
        device=device,
        max_model_len=longest,
        lora_rank=session.search.largest_rank(),
        generation=bool(every),
    )


def describe(request: EvaluationRequest) -> str:
    """The request in words."""
    on = " on the test set" if request.test else ""
    if request.trial_id is None:
        return f"the base model{on}"
    return f"trial {request.number}, batch {request.step}{on}"


def summary(scores: Scores) -> str:
    """The scores in one line."""
    parts = [f"loss {scores.loss:.4f}"]
    if scores.accuracy is not None:
        parts.append(f"accuracy {scores.accuracy:.3f} ({scores.correct} of {scores.total})")
    times = scores.timings
    parts.append(f"{times.total:.2f} s, {times.overhead:.2f} s of it overhead")
    return ", ".join(parts)
