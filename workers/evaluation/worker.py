"""The evaluation worker: engines built once, one checkpoint after another."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from sqlalchemy.exc import DBAPIError

from hpo.search.graded import StoredItem, pack_set
from hpo.spec.errors import HpoError, InputError
from storage.answers import AnswerStore
from storage.checkpoints import Checkpoint, CheckpointError
from storage.errors import LeaseLost
from storage.records import EvaluationRequest
from workers.evaluation.claim import Claim
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.recovery import EngineUnusable
from workers.evaluation.grading.errors import GradersUnavailable
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.score import Evaluator, Hooks, Scored
from workers.evaluation.scores import Answered, Scores
from workers.evaluation.sets import (
    TEST,
    VALIDATION,
    EvaluationSets,
    GenerationSet,
    answered,
    load_sets,
    require_gradable,
    require_same_graders,
)
from workers.evaluation.tasks.task import NOT_GRADABLE
from workers.faults import is_environment_fault
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopRequested, StopSignal
from workers.turns import TurnLost, Turns, open_turns

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


def serve_evaluations(options: WorkerOptions, stop: StopSignal) -> None:
    """Answer a study's requests until it is over or a stop is asked for."""
    with open_session("evaluation", options, stop) as session, ExitStack() as stack:
        if session.trials_over() and not session.scores_pending():
            return
        session.phase("preparing the evaluation sets")
        sets = load_sets(session)
        evaluation = session.spec.evaluation
        pool = stack.enter_context(
            GradingPool(evaluation.grading_processes, item_seconds=evaluation.grading_seconds)
        )
        require_same_graders(session)
        for name, items in answered(sets):
            require_gradable(pool, items, f"data.{name}")
            store_items(session, items, test=name == TEST)
        kind = torch.device(options.device.partition(":")[0])
        turns = stack.enter_context(open_turns(session, kind, options.device))
        stack.enter_context(suppress(StopRequested))
        stop.check()
        with turns.mine("building the engines", stop.check):
            session.phase("building the engines")
            engines = load_engines(session, sets, options.device)
            stack.callback(engines.close)
            turns.before_rest(engines.lay_down)
        scorers = {name: Evaluator(engines, pool, part, evaluation) for name, part in sets.items()}
        EvaluationWorker(session, scorers, turns).run()


class Scorer(Protocol):
    """Scores checkpoints on one set."""

    @property
    def most_together(self) -> int:
        """Adapters that are scored in one go."""

    def score(self, checkpoint: Checkpoint | None, hooks: Hooks) -> Scored:
        """Score a checkpoint, or the base model for None.

        Raises CheckpointError for a checkpoint that cannot be scored.
        """

    def score_together(
        self, checkpoints: Sequence[Checkpoint], hooks: Hooks
    ) -> list[Scored | CheckpointError]:
        """Score several adapters, in their order; a bad one does not hurt the others."""


@dataclass
class EvaluationWorker:
    """Claims requests, scores their checkpoints, reports to the study."""

    session: StudySession
    scorers: Mapping[str, Scorer]
    """One for each of the sets, `validation` and perhaps `test`."""
    turns: Turns = field(default_factory=Turns)

    def run(self) -> None:
        """Answer requests until the study is over or stopped."""
        order = self.session.spec.evaluation.order
        while not self.session.stopped():
            request = self.session.queue.claim(self.session.worker_id, order=order)
            if request is not None:
                self.answer(request)
            elif self.session.trials_over() and not self.session.scores_pending():
                return
            else:
                self.turns.rest()
                self.session.phase("waiting for a checkpoint")
                self.session.listener.wait(IDLE_SECONDS)

    def answer(self, request: EvaluationRequest) -> None:
        """Score a request, and others with it where that saves time.

        Whatever happens, the next one can be answered.
        """
        claims = [Claim(self.session, request)]
        try:
            self._answer(claims)
        except (StopRequested, TurnLost, LeaseLost) as reason:
            if isinstance(reason, LeaseLost):
                logger.info("%s is no longer wanted", describe(request))
            # Of one that was cancelled nothing is left to give back but the pin
            # on its checkpoint.
            for claim in claims:
                claim.release()
        except Exception as error:
            if _blames_nobody(error):
                # Where the database is away too, the launcher takes the attempt back.
                with suppress(DBAPIError):
                    for claim in claims:
                        claim.release()
            raise

    def _answer(self, claims: list[Claim]) -> None:
        """Score what is claimed; further claims are added to the list."""
        first = claims[0].request
        scorer = self.scorers[TEST if first.test else VALIDATION]
        checkpoint = self._open(claims[0])
        if isinstance(checkpoint, CheckpointError):
            self._refuse(claims[0], checkpoint)
            return
        opened = {claims[0]: checkpoint}
        if checkpoint is not None and checkpoint.kind == "lora" and not first.test:
            opened |= self._further(claims, scorer.most_together - 1)
        progress = self._progress(list(opened))
        with self.turns.mine(describe(first), progress, self._waiting) as checked:
            hooks = Hooks(checked, self._phases(opened), partial(_through, list(opened)))
            if len(opened) == 1:
                outcomes = [_scored(scorer, checkpoint, hooks)]
            else:
                together = [one for one in opened.values() if one is not None]
                outcomes = scorer.score_together(together, hooks)
        for claim, outcome in zip(opened, outcomes, strict=True):
            self._close(claim, outcome)

    def _waiting(self) -> int:
        """Other requests that wait."""
        return self.session.queue.counts().get("open", 0)

    def _further(self, claims: list[Claim], most: int) -> dict[Claim, Checkpoint | None]:
        """Other trials' waiting adapters, at most so many, verified."""
        found: dict[Claim, Checkpoint | None] = {}
        if most < 1:
            return found
        queue, order = self.session.queue, self.session.spec.evaluation.order
        for request in queue.claim_more(
            self.session.worker_id, claims[0].request, most, order=order
        ):
            claims.append(claim := Claim(self.session, request))
            checkpoint = self._open(claim)
            if isinstance(checkpoint, CheckpointError):
                self._refuse(claim, checkpoint)
            else:
                found[claim] = checkpoint
        return found

    def _open(self, claim: Claim) -> Checkpoint | CheckpointError | None:
        """The verified checkpoint, None for the base model, or what is wrong with it."""
        if claim.request.checkpoint is None:
            return None
        try:
            with claim.renewer.through():
                return self.session.checkpoints.open(claim.request.checkpoint)
        except CheckpointError as error:
            return error

    def _progress(self, claims: Sequence[Claim]) -> Callable[[], None]:
        """Renews what is claimed; raises LeaseLost once nothing of it is wanted."""

        def progress() -> None:
            self.session.stop.check()
            for claim in claims:
                claim.renew()
            if all(claim.lost for claim in claims):
                raise LeaseLost("nothing that is being scored is wanted any more")

        return progress

    def _phases(self, claims: Mapping[Claim, object]) -> Callable[[str], None]:
        what = " and ".join(describe(claim.request) for claim in claims)
        return lambda phase: self.session.phase(f"{what}: {phase}")

    def _close(self, claim: Claim, outcome: Scored | CheckpointError) -> None:
        """Report a result, once, or refuse the checkpoint."""
        if isinstance(outcome, CheckpointError):
            self._refuse(claim, outcome)
            return
        self.session.phase(f"{describe(claim.request)}: reporting")
        started = time.monotonic()
        try:
            self.session.queue.complete(
                claim.request,
                outcome.scores.as_dict(),
                lambda: self._report(claim.request, outcome.scores),
                answers=outcome.answers,
            )
        except LeaseLost:
            logger.info("%s is no longer wanted", describe(claim.request))
            claim.release()
            return
        logger.info(
            "%s: %s (%.0f ms to report)",
            describe(claim.request),
            summary(outcome.scores),
            1000 * (time.monotonic() - started),
        )

    def _refuse(self, claim: Claim, error: CheckpointError) -> None:
        """Fail a request, unless this worker sees no checkpoint at all.

        Raises InputError then: no trial is to blame.
        """
        try:
            self.session.require_checkpoints()
        except InputError:
            claim.release()
            raise
        logger.error("%s: %s", describe(claim.request), error)
        self.session.queue.fail(claim.request, str(error), retry=False)

    def _report(self, request: EvaluationRequest, scores: Scores) -> bool:
        """Report a rung's value to the study when it is the trial's turn."""
        if request.test:
            return False
        if request.trial_id is None:
            self.session.search.note_base(scores.as_dict())
        if request.rung is None or request.trial_id is None or request.number is None:
            return False
        value = scores.value(self.session.spec.objective.metric)
        if value is None or not math.isfinite(value):
            return False
        records = self.session.queue.for_trial(request.number)
        earlier = [r.rung for r in records if r.rung is not None and r.step < request.step]
        return self.session.search.report(request.trial_id, request.rung, value, earlier)


def _blames_nobody(error: Exception) -> bool:
    """Whether something else than the checkpoint is at fault: the attempt does not count."""
    if isinstance(error, HpoError | GradersUnavailable | EngineUnusable):
        return True
    return is_environment_fault(error)


@contextmanager
def _through(claims: Sequence[Claim]) -> Iterator[None]:
    """Hold on to what is claimed during one long call."""
    with ExitStack() as stack:
        for claim in claims:
            stack.enter_context(claim.renewer.through())
        yield


def _scored(
    scorer: Scorer, checkpoint: Checkpoint | None, hooks: Hooks
) -> Scored | CheckpointError:
    try:
        return scorer.score(checkpoint, hooks)
    except CheckpointError as error:
        return error


def store_items(session: StudySession, items: GenerationSet, *, test: bool) -> None:
    """Keep the items of a set, once per study, so that people see what was asked.

    Raises StudyError when the study has been asked other items.
    """
    stored = [StoredItem(item.prompt, item.reference, dict(item.labels)) for item in items.items]
    AnswerStore(session.database, session.record.id).put_set(test, pack_set(stored), items.hash)


def load_engines(
    session: StudySession, sets: Mapping[str, EvaluationSets], device: str
) -> EvaluationEngines:
    """Build the engines on the base model, once, long enough for every set."""
    every = [items for _, items in answered(sets)]
    engines = EvaluationEngines.load(
        session.spec.model,
        session.spec.evaluation,
        device=device,
        max_model_len=max((items.longest for items in every), default=0),
        lora_rank=session.search.largest_rank(),
        generation=bool(every),
    )
    arrangement = engines.arrangement
    logger.info("memory of the evaluation device: %s (%s)", arrangement.name, arrangement.reason)
    return engines


def describe(request: EvaluationRequest) -> str:
    """The request in words."""
    on = " on the test set" if request.test else ""
    if request.trial_id is None:
        return f"the base model{on}"
    return f"trial {request.number}, batch {request.step}{on}"


def _answered(answered: Answered) -> list[str]:
    share = answered.share
    of = f"{share.correct} of {share.total}"
    if answered.answers_total != share.total:
        of = f"{answered.answers_total} answers to {share.total} items"
    parts = [f"accuracy {share.accuracy:.3f} ({of})"]
    if lost := share.categories.get(NOT_GRADABLE):
        parts.append(f"{lost} answers not gradable, which count as wrong")
    return parts


def summary(scores: Scores) -> str:
    """The scores in one line."""
    if scores.reason is not None:
        return scores.reason
    parts = [f"loss {scores.loss:.4f}"]
    if scores.answered is not None:
        parts += _answered(scores.answered)
    times = scores.timings
    parts.append(f"{times.total:.2f} s, {times.overhead:.2f} s of it overhead")
    return ", ".join(parts)
