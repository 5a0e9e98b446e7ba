"""What both kinds of worker hold of a study while they serve it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpo.search.final import FinalTest
from hpo.search.register import find
from hpo.search.study import StudySearch
from hpo.spec.errors import DatabaseError, InputError, StudyError
from hpo.spec.study import StudySpec
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.listen import Listener
from storage.queue import EvaluationQueue
from storage.studies import Studies, StudyRecord
from storage.trials import TrialLeases
from storage.workers import WorkerKind, Workers, new_worker_id, session_name
from workers.data.preparing.prepared import PreparedData
from workers.data.preparing.recipe import Recipe
from workers.stop import StopSignal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is started."""

    study: str
    database_url: str
    device: str
    data_cache: Path
    """Where prepared data is kept on this machine."""
    lease_seconds: float = 60.0
    wait_seconds: float = 0.0
    """How long to wait for the database and the study to appear."""
    memory_fraction: float | None = None
    """Share of the GPU that a trial worker may use; all of it by default."""


@dataclass(frozen=True)
class StudySession:
    """One worker's view of one study."""

    worker_id: str
    database: Database
    record: StudyRecord
    spec: StudySpec
    search: StudySearch
    trials: TrialLeases
    queue: EvaluationQueue
    listener: Listener
    stop: StopSignal
    workers: Workers
    data_cache: Path
    lease_seconds: float

    @property
    def checkpoints(self) -> CheckpointStore:
        """Where this study's checkpoints lie."""
        return CheckpointStore(Path(self.record.checkpoints))

    def require_checkpoints(self) -> None:
        """Raise InputError when the folder of the study's checkpoints is not visible here."""
        root = self.checkpoints.root
        if not root.is_dir():
            raise InputError(
                f"the study's checkpoint folder {root} is not visible here; mount the folder "
                "that the trial worker writes to at the same path"
            )

    def data(self) -> PreparedData:
        """The study's data, from this machine's cache or prepared now.

        Raises InputError when it is missing, malformed or not what the study's
        other processes have.
        """
        from workers.data.preparing.build import prepare

        prepared = prepare(Recipe.of(self.spec), self.data_cache, say=logger.info)
        mine = prepared.report
        known = Studies(self.database).note_data(self.record.id, mine.as_dict())
        if known["hash"] != mine.hash:
            raise InputError(
                f"the data that is read here ({mine.hash}) is not the data of the study "
                f"{self.record.name!r} ({known['hash']}); put the same files, model and versions "
                "of the libraries here; hpo data prepare shows what differs"
            )
        return prepared

    def phase(self, text: str) -> None:
        """Show people what this worker is doing."""
        self.workers.phase(self.worker_id, text)

    def stopped(self) -> bool:
        """Whether a person stopped this process or the whole study."""
        return self.stop.requested or self._current().stop_requested

    def budget(self) -> int:
        """Trials in total, as it stands now: a budget may be raised."""
        return StudySpec.model_validate(self._current().spec).budget.trials

    def trials_over(self) -> bool:
        """Whether every trial of the budget has ended."""
        return self.trials.count() >= self.budget() and self.trials.unfinished() == 0

    def scores_pending(self) -> bool:
        """Whether the base model's scores or some on the test set are missing.

        Those on the test set are asked for now. Only when the trials are over.
        """
        final = FinalTest(self.queue, self.search)
        final.ask()
        return final.pending()

    def _current(self) -> StudyRecord:
        record = Studies(self.database).by_id(self.record.id)
        if record is None:
            raise StudyError(f"the study {self.record.name!r} was deleted")
        return record


@contextmanager
def open_session(
    kind: WorkerKind, options: WorkerOptions, stop: StopSignal
) -> Iterator[StudySession]:
    """Connect to the database, find the study and register this worker.

    Raises DatabaseError or StudyError when either is missing and
    `wait_seconds` have passed.
    """
    worker_id = new_worker_id()
    database, record = _wait_for(options, session_name(worker_id), stop)
    spec = StudySpec.model_validate(record.spec)
    workers = Workers(database)
    workers.register(kind, record.id, options.device, worker_id=worker_id)
    seconds = options.lease_seconds
    # What dead workers held need not wait for its lease to run out.
    workers.free_absent(record.id)
    listener = Listener(database, record.id)
    try:
        yield StudySession(
            worker_id=worker_id,
            database=database,
            record=record,
            spec=spec,
            search=StudySearch(database.optuna_storage(), spec),
            trials=TrialLeases(database, record.id, seconds=seconds),
            queue=EvaluationQueue(database, record.id, seconds=seconds),
            listener=listener,
            stop=stop,
            workers=workers,
            data_cache=options.data_cache,
            lease_seconds=seconds,
        )
    finally:
        listener.close()
        database.close()


def _wait_for(options: WorkerOptions, name: str, stop: StopSignal) -> tuple[Database, StudyRecord]:
    deadline = time.monotonic() + options.wait_seconds
    while True:
        try:
            database = Database.open(options.database_url, application_name=name)
            try:
                return database, find(database, options.study)
            except BaseException:
                database.close()
                raise
        except (DatabaseError, StudyError) as error:
            if time.monotonic() >= deadline or stop.requested:
                raise
            logger.info("waiting: %s", error)
            time.sleep(1.0)
