"""The child processes of a run: started where they are missing, restarted when they die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from hpo.launch.home import database_url
from hpo.launch.outage import Outage, is_away, unless_away
from hpo.launch.processes import Child, WorkerKind
from hpo.results.snapshot import Snapshot, StudyView
from hpo.spec.errors import DatabaseError, HpoError

MOST_RESTARTS = 5
"""Restarts of one worker in a row before the run gives up."""
HEALTHY_SECONDS = 120.0
"""A worker that lived this long starts counting its restarts anew."""
MISSING_SECONDS = 15.0
"""A kind of worker is missing when nobody has seen one for so long: others restart theirs too."""
LOOK_SECONDS = 0.5
USER_ERROR = 2


class WorkerFailed(HpoError):
    """A worker cannot go on; its last words say why."""


class Display(Protocol):
    """Shows people how a study goes."""

    def note(self, text: str) -> None:
        """One line about the run itself."""

    def update(self, snapshot: Snapshot) -> None:
        """The study as it is now."""


@dataclass
class Crew:
    """A worker of each kind, here or elsewhere, for as long as the study goes on."""

    view: StudyView
    workers: dict[WorkerKind, Child]
    helpers: list[Child]
    """Processes the study does without, such as the dashboard."""
    display: Display
    stop_seconds: float
    database: str | None
    """The database that was asked for; None for the embedded one, which is brought back."""
    _missing_since: dict[WorkerKind, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._outage = Outage(self.display.note)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Start what is missing; at the end, however it comes, stop all that was started."""
        try:
            present = self._present()
            missing = [child for kind, child in self.workers.items() if kind not in present]
            for child in [*missing, *self.helpers]:
                self._start(child)
            yield
        finally:
            self._stop()

    def watch(self) -> bool:
        """Show progress until the study is over (True) or stopped (False).

        Raises WorkerFailed when a worker cannot go on, DatabaseError when the
        database does not come back.
        """
        try:
            while (ended := self._look()) is None:
                time.sleep(LOOK_SECONDS)
            return ended
        except KeyboardInterrupt:
            self.display.note(
                "stopping: the running trial saves its state and goes on with the next hpo run"
            )
            return False

    def _look(self) -> bool | None:
        try:
            ended = self._advance()
        except Exception as error:
            if not is_away(error):
                raise
            self._outage.found(error)
            with suppress(DatabaseError), database_url(self.database):
                pass
            return None
        self._outage.over()
        return ended

    def _advance(self) -> bool | None:
        """Whether the study is over (True) or stopped (False); None while it goes on."""
        self.view.refresh()
        snapshot = self.view.read()
        self.display.update(snapshot)
        if snapshot.state == "finished":
            return True
        if snapshot.state == "stopped":
            self.display.note("the study was stopped")
            return False
        self._look_after()
        return None

    def _look_after(self) -> None:
        if self.view.over():
            return
        present = self._present()
        trials_over = self.view.trials_over()
        for kind, child in self.workers.items():
            # What is left is the evaluation on the test set.
            if kind == "trial" and trials_over:
                continue
            # A worker that ended well found nothing to do; there may be something again.
            if child.process is None or child.code == 0:
                self._stand_in(kind, child, missing=kind not in present)
            elif child.code is not None:
                self._revive(child)

    def _present(self) -> set[str]:
        return {row.kind for row in self.view.workers.present(self.view.record.id)}

    def _stand_in(self, kind: WorkerKind, child: Child, *, missing: bool) -> None:
        """Start the child when others no longer have a worker of its kind."""
        now = time.monotonic()
        since = self._missing_since.setdefault(kind, now)
        if missing and now - since < MISSING_SECONDS:
            return
        del self._missing_since[kind]
        if missing:
            self.view.workers.free_absent(self.view.record.id)
            self._start(child)

    def _revive(self, child: Child) -> None:
        through_outage = child.started < self._outage.last
        freed = self.view.workers.free_absent(self.view.record.id, untried=through_outage)
        if child.code == USER_ERROR:
            raise WorkerFailed(child.last_words())
        if through_outage or time.monotonic() - child.started > HEALTHY_SECONDS:
            child.restarts = 0
        child.restarts += 1
        if child.restarts > MOST_RESTARTS:
            raise WorkerFailed(
                f"the {child.name} died {child.restarts} times in a row, last with exit code "
                f"{child.code}: {child.last_words()} (more in {child.log})"
            )
        self.display.note(
            f"{child.name} died with exit code {child.code}; started again"
            + (f", {freed} of its leases are free" if freed else "")
        )
        child.start()

    def _start(self, child: Child) -> None:
        child.start()
        self.display.note(f"{child.name} started, log in {child.log}")

    def _stop(self) -> None:
        everyone = [*self.workers.values(), *self.helpers]
        for child in everyone:
            child.terminate()
        deadline = time.monotonic() + self.stop_seconds
        for child in everyone:
            try:
                ended = child.wait(max(0.1, deadline - time.monotonic()))
            except KeyboardInterrupt:
                ended = False
            if not ended:
                self.display.note(f"{child.name} did not stop in time and was killed")
                child.kill()
        with unless_away():
            self.view.workers.free_absent(self.view.record.id)
