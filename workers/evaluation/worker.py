"""The evaluation worker: engines built once, one checkpoint after another."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from hpo.spec.errors import InputError
from hpo.spec.study import DataSpec
from storage.checkpoints import Checkpoint, CheckpointError
from storage.errors import LeaseLost
from storage.queue import EvaluationRequest
from workers.data.encode import Encoder, encode_all
from workers.data.sources import read_generation_set, read_loss_set
from workers.data.tokenizer import load_tokenizer
from workers.evaluation.engines import EvaluationEngines
from workers.evaluation.grading import Grader
from workers.evaluation.score import EvaluationSets, GenerationSet, Scores, score
from workers.renewal import Renewer
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopRequested, StopSignal

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


def serve_evaluations(options: WorkerOptions, stop: StopSignal) -> None:
    """Answer a study's requests until it is over or a stop is asked for."""
    with open_session("evaluation", options, stop) as session:
        if session.over():
            return
        session.phase("reading the evaluation sets")
        sets = load_sets(session)
        session.phase("building the engines")
        engines = load_engines(session, sets, options.device)
        try:
            with Grader() as grader:
                scorer = partial(
                    score,
                    engines,
                    grader,
                    sets=sets,
                    tokens_per_batch=session.spec.evaluation.tokens_per_batch,
                )
                EvaluationWorker(session, scorer).run()
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
    scorer: Scorer

    def run(self) -> None:
        """Answer requests until the study is over or stopped."""
        while not self.session.stopped():
            request = self.session.queue.claim(self.session.worker_id)
            if request is not None:
                self.answer(request)
            elif self.session.over():
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
        return self.scorer(checkpoint, on_progress=progress)

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


def load_sets(session: StudySession) -> EvaluationSets:
    """Read and tokenise the evaluation sets, once.

    Raises InputError when one is missing or malformed.
    """
    spec = session.spec
    max_length = max(session.search.max_lengths())
    encoder = Encoder(load_tokenizer(spec.model.path), spec.data, max_length)
    encoded = encode_all(encoder, read_loss_set(spec.data))
    if encoded.truncated or encoded.dropped:
        logger.warning(
            "loss set: %d examples cut and %d left out at %d tokens",
            encoded.truncated,
            encoded.dropped,
            max_length,
        )
    return EvaluationSets(encoded.examples, _generation_set(spec.data, encoder))


def _generation_set(data: DataSpec, encoder: Encoder) -> GenerationSet | None:
    if data.generation is None:
        return None
    examples = read_generation_set(data)
    return GenerationSet(
        prompts=[encoder.encode_prompt(example) for example in examples],
        references=[example.completion for example in examples],
        task=data.generation.task,
        max_new_tokens=data.generation.max_new_tokens,
        stop_token_ids=[encoder.end_token],
    )


def load_engines(session: StudySession, sets: EvaluationSets, device: str) -> EvaluationEngines:
    """Build the engines on the base model, once."""
    items = sets.generation
    prompts = items.prompts if items is not None else []
    answer = items.max_new_tokens if items is not None else 0
    return EvaluationEngines.load(
        session.spec.model,
        session.spec.evaluation,
        device=device,
        max_model_len=max((len(prompt) for prompt in prompts), default=0) + answer,
        lora_rank=session.search.largest_rank(),
        generation=items is not None,
    )


def describe(request: EvaluationRequest) -> str:
    """The request in words."""
    if request.trial_id is None:
        return "the base model"
    return f"trial {request.number}, batch {request.step}"


def summary(scores: Scores) -> str:
    """The scores in one line."""
    parts = [f"loss {scores.loss:.4f}"]
    if scores.accuracy is not None:
        parts.append(f"accuracy {scores.accuracy:.3f} ({scores.correct} of {scores.total})")
    times = scores.timings
    parts.append(f"{times.total:.2f} s, {times.overhead:.2f} s of it overhead")
    return ", ".join(parts)
