"""The crew over a real database, with small processes in the workers' place."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpo.launch import crew as crew_module
from hpo.launch.crew import Crew, WorkerFailed
from hpo.launch.processes import Child, WorkerKind
from hpo.results.snapshot import Snapshot, StudyView
from hpo.search.register import register
from hpo.spec.errors import DatabaseError
from hpo.spec.load import parse_study
from storage.cluster import Cluster
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.studies import Studies
from storage.workers import Workers, new_worker_id, session_name

pytestmark = pytest.mark.postgres

STUDY = """\
name: crewed
objective: {metric: loss, direction: minimize}
model: {path: user/model}
data: {train: {path: user/train}, loss: {path: user/valid}}
training:
  optimizer: {learning_rate: {low: 1e-5, high: 1e-1, log: true}}
  effective_batch_size: 8
  max_examples: 900
evaluation: {every: {examples: 100}}
budget: {trials: 6}
"""
SLEEPS = "import time; time.sleep(60)"
KINDS: tuple[WorkerKind, ...] = ("trial", "evaluation")


@dataclass
class Notes:
    """Keeps what was shown."""

    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(text)

    def update(self, snapshot: Snapshot) -> None:
        pass


def make_crew(database: Database, folder: Path, code: str) -> tuple[Crew, Notes]:
    record, _ = register(database, parse_study(STUDY, "study.yaml", {}), folder)
    workers = {
        kind: Child(f"{kind} worker", [sys.executable, "-c", code], {}, folder / f"{kind}.log")
        for kind in KINDS
    }
    notes = Notes()
    return Crew(StudyView(database, record), workers, [], notes, 10.0, database.url), notes


@contextmanager
def elsewhere(kind: WorkerKind, url: str, study_id: int) -> Iterator[None]:
    """A worker that somebody else started."""
    worker = new_worker_id()
    with Database.open(url, application_name=session_name(worker)) as database:
        Workers(database).register(kind, study_id, "cpu", worker_id=worker)
        yield


@contextmanager
def watching(crew: Crew, database: Database) -> Iterator[None]:
    """The crew at work in another thread, stopped at the end by stopping the study."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with crew.working():
                crew.watch()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        Studies(database).request_stop(crew.view.record.id)
        thread.join(30)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_worker_elsewhere_is_replaced_when_it_leaves(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "MISSING_SECONDS", 1.0)
    crew, notes = make_crew(database, tmp_path, SLEEPS)
    trial, evaluation = crew.workers["trial"], crew.workers["evaluation"]
    with ExitStack() as another:
        another.enter_context(elsewhere("trial", database.url, crew.view.record.id))
        with watching(crew, database):
            wait_until(lambda: evaluation.process is not None)
            time.sleep(2.0)
            assert trial.process is None, "another one is there"
            another.close()
            wait_until(lambda: trial.process is not None)
            # It has not registered yet, and is not started a second time.
            time.sleep(2.0)
    started = [line.partition(",")[0] for line in notes.lines if "started" in line]
    assert started == ["evaluation worker started", "trial worker started"]
    assert trial.code is not None, "stopped with the crew"


def test_a_worker_that_ended_well_is_not_started_again_at_once(
    database: Database, tmp_path: Path
) -> None:
    crew, notes = make_crew(database, tmp_path, "pass")
    with watching(crew, database):
        wait_until(lambda: all(child.code == 0 for child in crew.workers.values()))
        time.sleep(1.5)
    assert len([line for line in notes.lines if "started" in line]) == 2
    assert not any("died" in line for line in notes.lines)


def test_bad_input_ends_the_run_with_the_workers_words(database: Database, tmp_path: Path) -> None:
    code = "import sys; print('error: no such model'); sys.exit(2)"
    crew, _ = make_crew(database, tmp_path, code)
    with crew.working(), pytest.raises(WorkerFailed, match=r"^no such model$"):
        crew.watch()


def test_quick_deaths_end_the_run(database: Database, tmp_path: Path) -> None:
    code = "import sys; print('error: too many connections'); sys.exit(75)"
    crew, notes = make_crew(database, tmp_path, code)
    died = r"died 6 times in a row, .* 75: too many"
    with crew.working(), pytest.raises(WorkerFailed, match=died):
        crew.watch()
    assert sum("trial worker died" in line for line in notes.lines) == 5


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with (
        tempfile.TemporaryDirectory(prefix="hpo-outage-") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        yield server


def test_an_outage_is_waited_for_and_its_deaths_do_not_count(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    cluster = Cluster(own_server.folder)
    with Database.open(own_server.url) as database:
        crew, notes = make_crew(database, tmp_path, SLEEPS)
        trial = crew.workers["trial"]
        with watching(crew, database):
            wait_until(lambda: trial.process is not None)
            trial.restarts = crew_module.MOST_RESTARTS
            cluster.stop()
            wait_until(lambda: any("is away" in line for line in notes.lines))
            assert trial.process is not None
            trial.process.kill()
            time.sleep(2.0)
            assert not any("died" in line for line in notes.lines), "nobody can be asked"
            cluster.start()
            wait_until(lambda: any("trial worker died" in line for line in notes.lines))
    assert [line.split(":")[0] for line in notes.lines if "database" in line] == [
        "the database is away",
        "the database is back",
    ]
    assert trial.restarts == 1


def test_a_database_that_stays_away_ends_the_run_cleanly(
    own_server: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.launch.outage.LONGEST_OUTAGE_SECONDS", 1.0)
    with Database.open(own_server.url) as database:
        crew, _ = make_crew(database, tmp_path, SLEEPS)
        with crew.working():
            Cluster(own_server.folder).stop()
            with pytest.raises(DatabaseError, match="bring it back"):
                crew.watch()
    assert all(child.code is not None for child in crew.workers.values())
