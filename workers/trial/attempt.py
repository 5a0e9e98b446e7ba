"""One attempt of one trial: train, have it evaluated, follow the verdicts."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hpo.search.course import Ending, Outcome
from hpo.spec.ladder import Ladder
from storage.trials import TrialLease
from workers.renewal import Renewer
from workers.session import StudySession
from workers.trial.background import Background
from workers.trial.evaluations import MOST_OPEN, Evaluations
from workers.trial.failures import Diverged
from workers.trial.health.watch import HealthWatch
from workers.trial.loop.report import StepReport
from workers.trial.loop.run import TrainingRun
from workers.trial.saving import Saver
from workers.trial.tracking import Tracker
from workers.turns import Turns

logger = logging.getLogger(__name__)


@dataclass
class Attempt:
    """Drives a training run and its evaluations to the trial's end."""

    session: StudySession
    lease: TrialLease
    run: TrainingRun
    evaluations: Evaluations
    tracker: Tracker
    health: HealthWatch
    ladder: Ladder | None
    renewer: Renewer
    checkpoint_bytes: int
    """About what a checkpoint of the run takes on disk."""
    turns: Turns
    _micro_batch: int | None = None
    _warm: bool = False

    def train(self) -> Ending | None:
        """Train until the trial ends, or None when it was suspended.

        Training does not wait for evaluations unless two are open or all
        batches are done.
        """
        with Background() as background:
            saver = Saver(
                self.session,
                self.lease,
                self.run,
                self.evaluations,
                background,
                self.checkpoint_bytes,
                self.lease.state_address,
                # Zero where the state could not be used.
                self.run.step,
            )
            return self._train(saver)

    def _train(self, saver: Saver) -> Ending | None:
        while True:
            saver.background.check()
            ending = self.evaluations.ending(self.run.total_steps)
            if ending is not None:
                logger.info("trial %d is decided after batch %d", self.lease.number, self.run.step)
                return ending
            if self.session.stop.requested:
                self._suspend(saver)
                return None
            if self.run.finished or self._open(saver) >= MOST_OPEN:
                self.turns.rest()
                self.session.phase(f"trial {self.lease.number}: waiting for an evaluation")
                self._check_study()
                self.evaluations.wait()
                continue
            if not self.turns.ready(self._doing()):
                # Meanwhile an answer may end the trial, or somebody the study.
                self.renewer()
                continue
            diverged = self._train_batch(saver)
            if diverged is not None:
                return self._drain(saver, diverged)

    def _open(self, saver: Saver) -> int:
        """Requests without an answer, one that is not in the queue yet among them."""
        # In this order: what comes into the queue in between counts twice, not never.
        return saver.asking + self.evaluations.pending()

    def _train_batch(self, saver: Saver) -> Diverged | None:
        before = self.run.examples_seen
        try:
            report = self._take_step()
        except Diverged as error:
            return error
        if report.step == 1:
            milliseconds = 1000 * report.seconds
            logger.info("trial %d took its first step (%.0f ms)", self.lease.number, milliseconds)
        self.tracker.train(report)
        self.health.train(report)
        self._save(saver, before)
        return None

    def _take_step(self) -> StepReport:
        """One optimizer step; an attempt's first may compile, for minutes without progress."""
        if self._warm:
            return self.run.train_batch()
        with self.renewer.through():
            report = self.run.train_batch()
        self._warm = True
        return report

    def _save(self, saver: Saver, before: int) -> None:
        """What a step that began at `before` examples gives to be saved."""
        step, after = self.run.step, self.run.examples_seen
        rung = self.ladder.crossed(before, after) if self.ladder else None
        due = self.session.spec.evaluation.every.due(step, before, after)
        evaluate = rung is not None or self.run.finished or due
        every = self.session.spec.checkpoints.save_every
        state = evaluate if every is None else every.due(step, before, after)
        if not (evaluate or state):
            return
        with self.renewer.through():
            saver.save(evaluate=evaluate, rung=rung, state=state)
        self._show()
        self._check_study()

    def _show(self) -> None:
        if self.run.micro_batch != self._micro_batch:
            self._micro_batch = self.run.micro_batch
            self.session.search.note(self.lease.trial_id, "micro_batch", self._micro_batch)
        self.session.phase(self._doing())

    def _doing(self) -> str:
        return f"trial {self.lease.number}: batch {self.run.step} of {self.run.total_steps}"

    def _check_study(self) -> None:
        """A stop of the whole study, asked for in the database, reaches us here."""
        if self.session.stopped():
            self.session.stop.requested = True

    def _suspend(self, saver: Saver) -> None:
        with self.renewer.through():
            saver.save(evaluate=False, rung=None, state=True)
            saver.background.wait()

    def _drain(self, saver: Saver, error: Diverged) -> Ending | None:
        """The open evaluations come first: one of them may have ended the trial."""
        self.turns.rest()
        with self.renewer.through():
            saver.background.wait()
        while self.evaluations.pending():
            if self.session.stop.requested:
                return None
            self.evaluations.wait()
        ending = self.evaluations.ending(self.run.total_steps)
        return ending or Ending(Outcome.DIVERGED, str(error), self.evaluations.best())


def renewer_of(session: StudySession, lease: TrialLease) -> Renewer:
    """Renews a trial's lease, and looks up whether the trial or the study was ended.

    It raises LeaseLost or TrialAlreadyFinished.
    """

    def look() -> None:
        session.search.require_running(lease.trial_id)
        if session.stopped():
            session.stop.requested = True

    return Renewer(lambda: session.trials.renew(lease), session.lease_seconds, look)
