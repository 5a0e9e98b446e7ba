"""The trial worker: one base model, loaded once, and one trial after another."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from optuna.exceptions import UpdateFinishedTrialError
from pydantic import ValidationError

from hpo.search.course import Ending, Outcome, Point
from hpo.search.study import TrialAlreadyFinished
from hpo.spec.errors import HpoError
from hpo.spec.load import ladder_of
from hpo.spec.rules import require_device
from hpo.spec.space import SearchSpace
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.features import ablated
from storage.checkpoints import CheckpointError
from storage.errors import LeaseLost
from storage.trials import TrialLease
from workers.data.preparing.prepared import PreparedData
from workers.data.tokens.encoded import EncodedSet
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.devices import prepare_device, torch_device, training_device
from workers.faults import is_environment_fault
from workers.renewal import Renewer
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopRequested, StopSignal
from workers.trial.answers import save_answers
from workers.trial.attempt import Attempt, renewer_of
from workers.trial.epochs import require_all_used
from workers.trial.evaluations import Evaluations
from workers.trial.failures import (
    BaseModelChanged,
    DoesNotFit,
    InvalidTrial,
    StateOfAnotherRun,
)
from workers.trial.health.watch import watch
from workers.trial.loop.objective.code_blocks import CodeBlocks
from workers.trial.loop.run import TrainingRun
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel
from workers.trial.retention import clean_up, thin_out
from workers.trial.saving import checkpoint_bytes
from workers.trial.tracking import tracking
from workers.turns import Turns, open_turns

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""Attempts of one trial that may fail for an unforeseen reason before it counts as a bug."""
MOST_BUGS = 3
"""Trials in a row that may end as bugs before the worker gives up."""
IDLE_SECONDS = 1.0


class WorkerStopped(HpoError):
    """Trial after trial fails: going on would only burn the budget."""


def serve_trials(options: WorkerOptions, stop: StopSignal) -> None:
    """Run the trials of a study until its budget is spent or a stop is asked for."""
    with open_session("trial", options, stop) as session:
        if session.trials_over():
            return
        session.phase("loading the model")
        device = torch_device(options.device)
        require_device(session.spec, training_device(device), options.study)
        prepare_device(device, options.memory_fraction)
        with (
            open_turns(session, device, str(device), await_room=True) as turns,
            suppress(StopRequested),
        ):
            TrialWorker.load(session, device, turns).run()


@dataclass
class TrialWorker:
    """Holds what outlives a trial: the model, the tokenizer and the data."""

    session: StudySession
    model: ReusableModel
    tokenizer: Any
    data: PreparedData
    device: torch.device
    turns: Turns
    _blocks: CodeBlocks | None = None
    _cut: dict[tuple[str | None, int, str], EncodedSet] = field(default_factory=dict)
    _bugs: int = 0

    @staticmethod
    def load(
        session: StudySession, device: torch.device, turns: Turns | None = None
    ) -> TrialWorker:
        """Load the base model and prepare the data, once.

        `turns` are those of the device; without them it is this process's
        alone. Raises InputError when model or data are missing or malformed,
        StopRequested while others have the device.
        """
        turns = turns or Turns()
        spec = session.spec
        data = session.data()
        needs = ModelNeeds.of(SearchSpace.of(spec.training).configs())
        turns.take("loading the model", session.stop.check)
        model = ReusableModel.load(spec.model, device=device, needs=needs)
        tokenizer = load_tokenizer(spec.model.path)
        return TrialWorker(session, model, tokenizer, data, device, turns)

    def run(self) -> None:
        """Take up trials until the study is over or stopped."""
        while not self.session.stopped():
            lease = self.session.trials.acquire(
                self.session.worker_id,
                budget=self.session.budget(),
                orphans=self.session.search.running,
                ask=self.session.search.ask,
            )
            if lease is not None:
                self._serve(lease)
            elif self.session.trials_over():
                return
            else:
                self.turns.rest()
                self.session.phase("idle: other workers hold the remaining trials")
                self.session.listener.wait(IDLE_SECONDS)

    def _serve(self, lease: TrialLease) -> None:
        try:
            ending = self._attempt(lease)
            if ending is None:
                self.session.trials.release(lease)
                logger.info("trial %d suspended", lease.number)
            else:
                self._finish(lease, ending)
        except LeaseLost:
            logger.warning("trial %d was taken over by another worker", lease.number)
        except (HpoError, BaseModelChanged):
            raise
        except Exception as error:
            with suppress(LeaseLost):
                self._unforeseen(lease, error)
        self.model.verify()

    def _unforeseen(self, lease: TrialLease, error: Exception) -> None:
        """Nobody is to blame yet: the trial is tried again, then it counts as a bug.

        A fault of the surroundings ends this process instead, and the trial
        goes on in another. Raises WorkerStopped when trial after trial fails.
        """
        logger.error("trial %d failed:\n%s", lease.number, traceback.format_exc())
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if is_environment_fault(error):
            self.session.trials.release(lease, reason, attempt="interrupted")
            raise error
        earlier = self.session.trials.attempts(lease.number)
        if sum(attempt.outcome == "failed" for attempt in earlier) + 1 < MOST_FAILURES:
            self.session.trials.release(lease, reason, attempt="failed")
            return
        self._finish(lease, Ending(Outcome.BUG, reason))
        self._bugs += 1
        if self._bugs >= MOST_BUGS:
            raise WorkerStopped(
                f"{MOST_BUGS} trials in a row failed {MOST_FAILURES} times each, the last with "
                f"{reason}; mend the cause, then run the study again"
            )

    def _attempt(self, lease: TrialLease) -> Ending | None:
        told = self.session.search.told(lease.trial_id)
        if told is not None:
            return told
        try:
            config = ablated(self.session.search.config(lease.trial_id))
            ending = self._train(lease, config)
            self._bugs = 0
            return ending
        except ValidationError as error:
            return Ending(Outcome.INVALID, _first_line(error))
        except InvalidTrial as error:
            return Ending(Outcome.INVALID, str(error))
        except DoesNotFit as error:
            if self.turns.disturbed():
                # Somebody else may have had the memory: the trial goes on from its state.
                return None
            return Ending(Outcome.DOES_NOT_FIT, str(error))
        except (TrialAlreadyFinished, UpdateFinishedTrialError):
            # By a person on the dashboard, or by the worker that took over.
            return self.session.search.told(lease.trial_id)

    def _train(self, lease: TrialLease, config: TrainingConfig) -> Ending | None:
        session = self.session
        parameters = session.search.fresh(lease.trial_id).params
        logger.info("trial %d, attempt %d: %s", lease.number, lease.fence, parameters)
        renewer = renewer_of(session, lease)
        if not self._has_turn(lease, renewer):
            return None
        examples = self._examples(config)
        require_all_used(config, len(examples))
        with ExitStack() as stack:
            with renewer.through():
                attached = stack.enter_context(self.model.attach(config))
                tracker = stack.enter_context(
                    tracking(
                        session.record,
                        session.spec,
                        lease.number,
                        parameters,
                        session.search.base_scores,
                    )
                )
            with renewer.through():
                run = TrainingRun(
                    attached,
                    config,
                    examples,
                    pad_id=pad_id(self.tokenizer),
                    device=self.device,
                    code=self._code(config),
                    on_progress=renewer,
                )
                self._restore(run, lease)

            health = watch(session, lease, run.total_steps, self.device)

            def announce(point: Point) -> None:
                tracker.evaluation(point)
                health.evaluation(point)

            evaluations = Evaluations(
                session, lease, announce, lambda: thin_out(session, evaluations)
            )
            attempt = Attempt(
                session,
                lease,
                run,
                evaluations,
                tracker,
                health,
                ladder_of(session.spec),
                renewer,
                checkpoint_bytes(attached),
                self.turns,
            )
            ending = attempt.train()
            if ending is not None:
                with renewer.through():
                    # Files are taken of running trials only, and of open runs.
                    save_answers(session, lease, ending, tracker)
            return ending

    def _has_turn(self, lease: TrialLease, renewer: Renewer) -> bool:
        """Wait for the device; False when a stop comes first."""
        doing = f"trial {lease.number}: setting up"
        while not self.turns.ready(doing):
            renewer()
            if self.session.stop.requested:
                return False
        return True

    def _restore(self, run: TrainingRun, lease: TrialLease) -> None:
        """Go on from the saved state; without a usable one, from the start.

        Evaluations that were answered before stay answered. Raises InputError
        when the checkpoint folder is not visible here.
        """
        if lease.state_address is None:
            return
        self.session.require_checkpoints()
        try:
            checkpoint = self.session.checkpoints.open(lease.state_address)
        except CheckpointError as error:
            logger.warning("trial %d starts anew: %s", lease.number, error)
            return
        try:
            run.load_state(checkpoint.directory)
        except StateOfAnotherRun as error:
            # Saved by another version of this program: the options have changed.
            logger.warning("trial %d starts anew: %s", lease.number, error)

    def _code(self, config: TrainingConfig) -> CodeBlocks | None:
        """Finds code blocks, where a trial's objective tells them apart."""
        if config.regularisation.code_loss is None:
            return None
        if self._blocks is None:
            self._blocks = CodeBlocks(self.tokenizer)
        return self._blocks

    def _examples(self, config: TrainingConfig) -> EncodedSet:
        """What a trial trains on: one prepared set, cut once per length."""
        key = (config.completion, config.max_length, config.truncation)
        if key not in self._cut:
            whole = self.data.training(config.completion)
            cut = whole.cut(config.max_length, drop=config.truncation == "drop")
            if cut.truncated or cut.dropped:
                logger.warning(
                    "training set: %d of %d examples cut and %d left out at %d tokens",
                    cut.truncated,
                    len(whole),
                    cut.dropped,
                    config.max_length,
                )
            if not len(cut.examples):
                raise InvalidTrial(
                    f"training.max_length: given {config.max_length}, at which nothing that is "
                    "learned is left of the training set; allowed: more than that"
                )
            self._cut[key] = cut.examples
        return self._cut[key]

    def _finish(self, lease: TrialLease, ending: Ending) -> None:
        session = self.session
        started = time.monotonic()
        with session.trials.guard(lease) as connection:
            # Told first: whoever finds it told ends it, whatever was cancelled.
            session.search.tell(lease.trial_id, ending)
            session.queue.cancel(lease.number, after_step=0)
            session.trials.finish(lease, ending.outcome.value, ending.reason, within=connection)
        clean_up(session)
        logger.info(
            "trial %d %s: %s (%.0f ms to close)",
            lease.number,
            ending.outcome.value,
            ending.reason,
            1000 * (time.monotonic() - started),
        )


def _first_line(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"training.{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
