"""One attempt of one trial: train, have it evaluated, follow the verdicts."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hpo.search.course import Ending, Outcome
from hpo.spec.ladder import Ladder
from storage.trials import TrialLease
from workers.renewal import Renewer
from workers.session import StudySession
from workers.trial.evaluations import MOST_OPEN, Evaluations, attempt_folder
from workers.trial.failures import Diverged
from workers.trial.loop.run import TrainingRun
from workers.trial.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass
class Attempt:
    """Drives a training run and its evaluations to the trial's end."""

    session: StudySession
    lease: TrialLease
    run: TrainingRun
    evaluations: Evaluations
    tracker: Tracker
    ladder: Ladder | None
    renewer: Renewer
    state_address: str | None = None

    def train(self) -> Ending | None:
        """Train until the trial ends, or None when it was suspended.

        Training does not wait for evaluations unless two are open or all
        batches are done.
        """
        while True:
            ending = self.evaluations.ending(self.run.total_steps)
            if ending is not None:
                logger.info("trial %d is decided after batch %d", self.lease.number, self.run.step)
                return ending
            if self.session.stop.requested:
                with self.renewer.through():
                    self._save_state()
                return None
            if self.run.finished or self.evaluations.pending() >= MOST_OPEN:
                self.session.phase(f"trial {self.lease.number}: waiting for an evaluation")
                self._check_study()
                self.evaluations.wait()
                continue
            diverged = self._train_batch()
            if diverged is not None:
                return self._drain(diverged)

    def _train_batch(self) -> Diverged | None:
        before = self.run.examples_seen
        try:
            report = self.run.train_batch()
        except Diverged as error:
            return error
        if report.step == 1:
            milliseconds = 1000 * report.seconds
            logger.info("trial %d took its first step (%.0f ms)", self.lease.number, milliseconds)
        self.tracker.train(report)
        after = self.run.examples_seen
        rung = self.ladder.crossed(before, after) if self.ladder else None
        due = self.session.spec.evaluation.every.due(self.run.step, before, after)
        if rung is not None or self.run.finished or due:
            with self.renewer.through():
                self._evaluate(rung)
        return None

    def _evaluate(self, rung: int | None) -> None:
        # The request comes before the state: an attempt that resumes behind
        # the request finds it there, one that resumed ahead would miss it.
        self.evaluations.put(
            step=self.run.step,
            examples=self.run.examples_seen,
            rung=rung,
            kind=self.run.kind,
            fill=self.run.save_checkpoint,
        )
        self._save_state()
        search = self.session.search
        search.note(self.lease.trial_id, "micro_batch", self.run.micro_batch)
        self.session.phase(
            f"trial {self.lease.number}: batch {self.run.step} of {self.run.total_steps}"
        )
        self._check_study()

    def _check_study(self) -> None:
        """A stop of the whole study, asked for in the database, reaches us here."""
        if self.session.stopped():
            self.session.stop.requested = True

    def _save_state(self) -> None:
        address = f"{attempt_folder(self.lease)}/state-{self.run.step:08d}"
        if address == self.state_address:
            return
        store = self.session.checkpoints
        store.write(
            address,
            self.run.save_state,
            kind=self.run.kind,
            step=self.run.step,
            examples=self.run.examples_seen,
        )
        self.session.trials.save_state(self.lease, address, self.run.step)
        if self.state_address is not None:
            store.delete(self.state_address)
        self.state_address = address

    def _drain(self, error: Diverged) -> Ending | None:
        """The open evaluations come first: one of them may have ended the trial."""
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
