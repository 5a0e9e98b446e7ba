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

from sqlalchemy.exc import DBAPIError

from hpo.spec.errors import HpoError, InputError
from storage.checkpoints import Checkpoint, CheckpointError
from storage.errors import LeaseLost
from storage.records import EvaluationRequest
from workers.evaluation.claim import Claim
from workers.evaluation.engines.recovery import EngineUnusable
from workers.evaluation.grading.errors import GradersUnavailable
from workers.evaluation.score import Hooks, Scored
from workers.evaluation.scores import Scores
from workers.evaluation.sets import TEST, VALIDATION
from workers.evaluation.wording import describe, summary
from workers.faults import is_environment_fault
from workers.session import StudySession
from workers.stop import StopRequested
from workers.turns import TurnLost, Turns

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


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
