"""`hpo run`: everything a study needs, from the file to the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.launch.crew import Crew, Display
from hpo.launch.devices import training_device, trial_memory_fraction
from hpo.launch.fitting import require_fit
from hpo.launch.home import configured_url, database_url, home, variables
from hpo.launch.inputs import check_device, check_inputs, check_output, make_inputs
from hpo.launch.processes import Child, WorkerKind, dashboard, free_port, worker
from hpo.launch.tasks import check_sandbox
from hpo.results.data import set_line, show_on_dashboard
from hpo.results.export import write_results
from hpo.results.snapshot import Snapshot, StudyView
from hpo.search.register import find, register
from hpo.spec.identity import absolute_inputs
from hpo.spec.load import load_study
from hpo.spec.rules import require_device
from hpo.spec.study import StudySpec
from storage.database import Database
from storage.studies import Studies

if TYPE_CHECKING:
    from workers.data.preparing.report import DataReport

RESULTS = "study_results.yaml"


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


def prepare(study: str) -> tuple[StudySpec, DataReport]:
    """Load a study file or preset, look at its model and prepare its data.

    Raises SpecError, StudyError or InputError.
    """
    return _with_inputs(study, load_study(study, variables()))


def _with_inputs(study: str, spec: StudySpec) -> tuple[StudySpec, DataReport]:
    make_inputs(study)
    spec = absolute_inputs(spec)
    data = check_inputs(spec)
    require_fit(spec, data, study)
    return spec, data


def run(study: str, options: RunOptions, display: Display) -> tuple[Snapshot, Path, bool]:
    """Run a study to the end of its budget, or until Ctrl-C.

    Returns the last snapshot, the file with the results and whether the study
    is finished. Everything started here is stopped here.
    """
    spec = load_study(study, variables())
    output = (options.output or Path("results") / spec.name).resolve()
    workers = _workers(study, spec, options, output)
    check_output(output)
    spec, data = _with_inputs(study, spec)
    check_sandbox(spec)
    with database_url(options.database) as url, Database.open(url) as database:
        record, created = register(database, spec, home(), data.as_dict())
        Studies(database).resume(record.id)
        display.note(f"study {spec.name}: {'created' if created else 'taken up again'}")
        for line in (*map(set_line, data.as_dict()["sets"]), *data.warnings()):
            display.note(line)
        view = StudyView(database, find(database, spec.name))
        show_on_dashboard(view.search.study, data.as_dict())
        try:
            finished = view.over() or _work(view, url, workers, output, options, display)
        finally:
            # However it ends: what was found so far is there.
            write_results(view, output / RESULTS)
        return view.read(), output / RESULTS, finished


def _workers(
    study: str, spec: StudySpec, options: RunOptions, output: Path
) -> dict[WorkerKind, Child]:
    """A worker of each kind, not started yet. Raises DeviceError or SpecError."""
    devices = _devices(spec, options)
    require_device(spec, training_device(devices["trial"]), study)
    fraction = trial_memory_fraction(devices["trial"], devices["evaluation"], spec.evaluation)
    return {
        kind: worker(
            kind,
            spec.name,
            url=configured_url(options.database),
            device=device,
            lease_seconds=options.lease_seconds,
            logs=output / "logs",
            memory_fraction=fraction if kind == "trial" else None,
        )
        for kind, device in devices.items()
    }


def _devices(spec: StudySpec, options: RunOptions) -> dict[WorkerKind, str]:
    """Device by kind of worker. Raises DeviceError."""
    chosen: dict[WorkerKind, str | None] = {
        "trial": options.trial_device,
        "evaluation": options.evaluation_device,
    }
    stated: dict[WorkerKind, str] = {
        "trial": spec.devices.trial,
        "evaluation": spec.devices.evaluation,
    }
    for kind, device in chosen.items():
        if device is not None:
            check_device(device, f"--{kind}-device")
        else:
            check_device(stated[kind], f"devices.{kind}")
    return {kind: chosen[kind] or stated[kind] for kind in chosen}


def _work(
    view: StudyView,
    url: str,
    workers: dict[WorkerKind, Child],
    output: Path,
    options: RunOptions,
    display: Display,
) -> bool:
    view.workers.free_absent(view.record.id)
    helpers: list[Child] = []
    if options.with_dashboard:
        port = free_port(options.dashboard_port)
        helpers.append(dashboard(url, port, output / "logs"))
        display.note(f"dashboard: http://127.0.0.1:{port}")
    crew = Crew(view, workers, helpers, display, options.stop_seconds, options.database)
    with crew.working():
        return crew.watch()
