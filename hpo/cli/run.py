"""`hpo run`, `hpo export` and `hpo validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpo.cli.options import Database, Name, Output, Study, connected, local, study_name

DEVICE_HELP = "auto, cpu, cuda or cuda:N. Default: as the study file says."


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(run)
    app.command()(export)
    app.command()(validate)
    app.command()(dashboard)


def run(
    study: Study,
    database: Database = None,
    output: Output = None,
    trial_device: Annotated[str | None, typer.Option(help=DEVICE_HELP, show_default=False)] = None,
    evaluation_device: Annotated[
        str | None, typer.Option(help=DEVICE_HELP, show_default=False)
    ] = None,
    dashboard: Annotated[bool, typer.Option(help="Start the Optuna dashboard.")] = True,
    dashboard_port: Annotated[int, typer.Option(help="A free one if it is taken.")] = 8080,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="A worker without progress for so long is given up.")
    ] = 60.0,
) -> None:
    """Run a study, or go on with it.

    Starts what is missing (database, workers, dashboard), shows progress and
    writes study_results.yaml when the budget is spent. Ctrl-C stops cleanly;
    run again, the study goes on where it was.
    """
    from hpo.cli.show import best_lines, display, failure_line
    from hpo.launch.run import RunOptions
    from hpo.launch.run import run as run_study

    options = RunOptions(
        database,
        output,
        trial_device,
        evaluation_device,
        dashboard,
        dashboard_port,
        lease_seconds,
    )
    with display(sys.stdout.isatty()) as shown:
        snapshot, file, finished = run_study(study, options, shown)
    for line in best_lines(snapshot):
        print(line)
    print(f"results: {file}")
    if not finished:
        print(f"not finished: {snapshot.ended} of {snapshot.budget} trials have ended")
        raise typer.Exit(130)
    if snapshot.best is None:
        print(failure_line(snapshot))
        raise typer.Exit(1)


def export(
    study: Name,
    output: Annotated[Path, typer.Option(help="File to write.")],
    database: Database = None,
) -> None:
    """Write a study's results to a YAML file."""
    from hpo.results.export import write_results
    from hpo.results.snapshot import StudyView
    from hpo.search.register import find

    name = study_name(study)
    with connected(database) as connection:
        write_results(StudyView(connection, find(connection, name)), output)
    print(f"written: {output}")


def validate(
    study: Study,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="Check for such a device, whatever is here.", show_default=False),
    ] = None,
) -> None:
    """Check a study file without running it.

    Reads the inputs and the search space too.
    """
    from hpo.cli.show import spec_lines
    from hpo.launch.devices import training_device
    from hpo.launch.fitting import require_fit
    from hpo.launch.home import variables
    from hpo.launch.inputs import check_device, check_inputs, check_model, make_inputs
    from hpo.launch.tasks import check_sandbox
    from hpo.results.data import data_lines
    from hpo.spec.identity import absolute_inputs
    from hpo.spec.load import load_study
    from hpo.spec.rules import require_device
    from hpo.spec.training.devices import TrainingDevice

    spec = load_study(study, variables())
    if device is None:
        check_device(spec.devices.trial, "devices.trial")
        check_device(spec.devices.evaluation, "devices.evaluation")
        require_device(spec, training_device(spec.devices.trial), study)
    else:
        require_device(spec, TrainingDevice(device), study)
    make_inputs(study)
    data = check_inputs(absolute_inputs(spec))
    require_fit(spec, data, study)
    found = [f"model: {check_model(spec.model.path)}", *data_lines(data.as_dict())]
    if device is None:
        check_sandbox(spec)
    for line in [*spec_lines(spec), *found, *data.warnings(), "valid"]:
        print(local(line))


def dashboard(
    database: Database = None,
    port: Annotated[int, typer.Option(help="A free one if it is taken.")] = 8080,
) -> None:
    """Serve the Optuna dashboard of all studies on 127.0.0.1 until Ctrl-C."""
    from hpo.launch.dashboard import HOST, serve
    from hpo.launch.home import database_url
    from hpo.launch.processes import free_port

    with database_url(database) as url:
        chosen = free_port(port)
        print(f"dashboard: http://{HOST}:{chosen}", flush=True)
        serve(url, chosen)
