"""`hpo worker trial|evaluation`: one long-lived process of a study."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from hpo.cli.options import Database, study_name

app = typer.Typer(
    help="Start one worker process of a study; any number may run.",
    no_args_is_help=True,
)

StudyName = Annotated[str, typer.Option("--study", help="Name of the study, or its file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until database and study exist.")]
Lease = Annotated[float, typer.Option(min=1, help="Without progress for so long: given up.")]
Parent = Annotated[int | None, typer.Option(hidden=True)]
FOREVER = 10.0 * 365 * 24 * 3600


@app.command()
def trial(
    study: StudyName,
    database: Database = None,
    device: Device = "auto",
    wait: Wait = False,
    lease_seconds: Lease = 60.0,
    parent: Parent = None,
) -> None:
    """Train a study's trials.

    One after another, on one model that is loaded once.
    """
    from hpo.launch.home import database_url
    from hpo.launch.inputs import check_device
    from workers.session import WorkerOptions
    from workers.stop import StopSignal, stop_with_parent

    stop = StopSignal()
    stop.install()
    if parent is not None:
        stop_with_parent(parent)
    _log()
    check_device(device, "--device")
    from workers.trial.worker import serve_trials

    with database_url(database) as url:
        seconds = FOREVER if wait else 0.0
        serve_trials(WorkerOptions(study_name(study), url, device, lease_seconds, seconds), stop)


@app.command()
def evaluation(
    study: StudyName,
    database: Database = None,
    device: Device = "auto",
    wait: Wait = False,
    lease_seconds: Lease = 60.0,
    parent: Parent = None,
) -> None:
    """Score a study's checkpoints.

    One after another, on engines that are built once.
    """
    from hpo.launch.home import database_url
    from workers.session import WorkerOptions
    from workers.stop import StopSignal, stop_with_parent

    stop = StopSignal()
    stop.install()
    if parent is not None:
        stop_with_parent(parent)
    _log()
    chosen = _chosen_gpu(device)
    from workers.evaluation.environment import prepare_environment

    prepare_environment(chosen)
    from workers.evaluation.worker import serve_evaluations

    with database_url(database) as url:
        seconds = FOREVER if wait else 0.0
        serve_evaluations(
            WorkerOptions(study_name(study), url, chosen, lease_seconds, seconds), stop
        )


def _chosen_gpu(device: str) -> str:
    """`auto` is the last GPU: the first one trains."""
    from hpo.launch.devices import gpu_names
    from hpo.launch.inputs import check_device

    if device != "auto":
        check_device(device, "--device")
        return device
    count = len(gpu_names())
    return f"cuda:{count - 1}" if count else "cpu"


def _log() -> None:
    logging.basicConfig(
        level=os.environ.get("HPO_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
