"""`hpo run`: everything a study needs, from the file to the results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpo.launch.home import database_url, home, variables
from hpo.launch.inputs import check_device, check_inputs, check_output, make_inputs
from hpo.launch.processes import (
    HEALTHY_SECONDS,
    MOST_RESTARTS,
    USER_ERROR,
    Child,
    dashboard,
    free_port,
    worker,
)
from hpo.results.export import write_results
from hpo.results.snapshot import Snapshot, StudyView
from hpo.search.register import find, register
from hpo.spec.errors import HpoError
from hpo.spec.identity import absolute_inputs
from hpo.spec.load import load_study
from hpo.spec.study import StudySpec
from storage.database import Database
from storage.studies import Studies

RESULTS = "study_results.yaml"


class WorkerFailed(HpoError):
    """A worker cannot go on; its last words say why."""


class Display(Protocol):
    """Shows people how a study goes."""

    def note(self, text: str) -> None:
        """One line about the run itself."""

    def update(self, snapshot: Snapshot) -> None:
        """The study as it is now."""


@dataclass(frozen=True)
class RunOptions:
    """What `hpo run` was asked for besides the study."""

    database: str | None = None
    output: Path | None = None
    trial_device: str | None = None
    evaluation_device: str | None = None
    with_dashboard: bool = True
    dashboard_port: int = 8080
    lease_seconds: float = 60.0
    stop_seconds: float = 120.0
    """How long workers may take to reach a safe point before they are killed."""


def prepare(study: str) -> StudySpec:
    """Load a study file or preset and look at its inputs.

    Raises SpecError, StudyError or InputError.
    """
    spec = load_study(study, variables())
    make_inputs(study)
    spec = absolute_inputs(spec)
    check_inputs(spec)
    return spec


def run(study: str, options: RunOptions, display: Display) -> tuple[Snapshot, Path, bool]:
    """Run a study to the end of its budget, or until Ctrl-C.

    Returns the last snapshot, the file with the results and whether the study
    is finished. Everything started here is stopped here.
    """
    spec = prepare(study)
    devices = _devices(spec, options)
    output = (options.output or Path("results") / spec.name).resolve()
    check_output(output)
    with database_url(options.database) as url, Database.open(url) as database:
        record, created = register(database, spec, home())
        Studies(database).resume(record.id)
        display.note(f"study {spec.name}: {'created' if created else 'taken up again'}")
        view = StudyView(database, find(database, spec.name))
        finished = view.over() or _work(view, url, devices, output, options, display)
        write_results(view, output / RESULTS)
        return view.read(), output / RESULTS, finished


def _devices(spec: StudySpec, options: RunOptions) -> dict[str, str]:
    """Device by kind of worker. Raises DeviceError."""
    chosen = {"trial": options.trial_device, "evaluation": options.evaluation_device}
    stated = {"trial": spec.devices.trial, "evaluation": spec.devices.evaluation}
    for kind, device in chosen.items():
        if device is not None:
            check_device(device, f"--{kind}-device")
        else:
            check_device(stated[kind], f"devices.{kind}")
    return {kind: chosen[kind] or stated[kind] for kind in chosen}


def _work(
    view: StudyView,
    url: str,
    devices: dict[str, str],
    output: Path,
    options: RunOptions,
    display: Display,
) -> bool:
    view.workers.free_absent(view.record.id)
    present = {row.kind for row in view.workers.present(view.record.id)}
    children = [
        worker(
            "trial" if kind == "trial" else "evaluation",
            view.spec.name,
            url=url,
            device=device,
            lease_seconds=options.lease_seconds,
            logs=output / "logs",
        )
        for kind, device in devices.items()
        if kind not in present
    ]
    helpers: list[Child] = []
    if options.with_dashboard:
        port = free_port(options.dashboard_port)
        helpers.append(dashboard(url, port, output / "logs"))
        display.note(f"dashboard: http://127.0.0.1:{port}")
    crew = Crew(view, children, helpers, display, options.stop_seconds)
    with crew.working():
        return crew.watch()


@dataclass
class Crew:
    """The child processes of a run, restarted when they die."""

    view: StudyView
    children: list[Child]
    helpers: list[Child]
    """Processes the study does without, such as the dashboard."""
    display: Display
    stop_seconds: float

    @contextmanager
    def working(self) -> Iterator[None]:
        """Start all; at the end, however it comes, stop all."""
        try:
            for child in [*self.children, *self.helpers]:
                child.start()
                self.display.note(f"{child.name} started, log in {child.log}")
            yield
        finally:
            self._stop()

    def watch(self) -> bool:
        """Show progress until the study is over (True) or stopped (False).

        Raises WorkerFailed when a worker cannot go on.
        """
        try:
            while True:
                self.view.refresh()
                snapshot = self.view.read()
                self.display.update(snapshot)
                if snapshot.state == "finished":
                    return True
                if snapshot.state == "stopped":
                    self.display.note("the study was stopped")
                    return False
                self._look_after()
                time.sleep(0.5)
        except KeyboardInterrupt:
            self.display.note(
                "stopping: the running trial saves its state and goes on with the next hpo run"
            )
            return False

    def _look_after(self) -> None:
        for child in self.children:
            if child.code is not None and not self.view.over():
                self._revive(child)

    def _revive(self, child: Child) -> None:
        assert child.process is not None
        freed = self.view.workers.free_absent(self.view.record.id)
        if child.code == USER_ERROR:
            raise WorkerFailed(child.last_words())
        if time.monotonic() - child.started > HEALTHY_SECONDS:
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

    def _stop(self) -> None:
        everyone = [*self.children, *self.helpers]
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
        self.view.workers.free_absent(self.view.record.id)
