"""`hpo worker trial|evaluation`: one long-lived process of a study."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.options import Database, study_name
from hpo.spec.errors import DatabaseError

if TYPE_CHECKING:
    from workers.session import WorkerOptions
    from workers.stop import StopSignal

app = typer.Typer(
    help="Start one worker process of a study; any number may run.",
    no_args_is_help=True,
)

StudyName = Annotated[str, typer.Option("--study", help="Name of the study, or its file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until database and study exist.")]
Lease = Annotated[float, typer.Option(min=1, help="Without progress for so long: given up.")]
Parent = Annotated[int | None, typer.Option(hidden=True)]
Fraction = Annotated[float | None, typer.Option(hidden=True, min=0, max=1)]
FOREVER = 10.0 * 365 * 24 * 3600
TRY_AGAIN = 75
"""Exit code for a parent: nothing is wrong with the study (EX_TEMPFAIL of sysexits.h)."""


@app.command()
def trial(
    study: StudyName,
    database: Database = None,
    device: Device = "auto",
    wait: Wait = False,
    lease_seconds: Lease = 60.0,
    parent: Parent = None,
    memory_fraction: Fraction = None,
) -> None:
    """Train a study's trials.

    One after another, on one model that is loaded once.
    """
    from hpo.launch.inputs import check_device

    with _process(parent) as stop:
        check_device(device, "--device")
        from workers.trial.worker import serve_trials

        with _options(study, database, device, lease_seconds, wait) as options:
            serve_trials(replace(options, memory_fraction=memory_fraction), stop)


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
    with _process(parent) as stop:
        chosen = _chosen_gpu(device)
        from workers.evaluation.engines.environment import prepare_environment

        prepare_environment(chosen)
        from workers.evaluation.serve import serve_evaluations

        with _options(study, database, chosen, lease_seconds, wait) as options:
            serve_evaluations(options, stop)


@contextmanager
def _process(parent: int | None) -> Iterator[StopSignal]:
    """A worker process: it logs, stops when it is asked to, and ends with its parent.

    To a parent, which started it on a database that was there, the database
    is a reason to try again.
    """
    from hpo.launch.outage import is_away, reason
    from hpo.parent import stop_with_parent
    from workers.stop import StopSignal

    stop = StopSignal()
    stop.install()
    if parent is not None:
        stop_with_parent(parent)
    _log()
    try:
        yield stop
    except Exception as error:
        if parent is None or not (isinstance(error, DatabaseError) or is_away(error)):
            raise
        print(f"error: {reason(error)}", file=sys.stderr)
        raise typer.Exit(TRY_AGAIN) from error


@contextmanager
def _options(
    study: str, database: str | None, device: str, lease_seconds: float, wait: bool
) -> Iterator[WorkerOptions]:
    """What a worker is started with; an embedded server runs meanwhile."""
    from hpo.launch.home import data_cache, database_url
    from workers.session import WorkerOptions

    seconds = FOREVER if wait else 0.0
    with database_url(database) as url:
        yield WorkerOptions(study_name(study), url, device, data_cache(), lease_seconds, seconds)


def _chosen_gpu(device: str) -> str:
    """`auto` is the last GPU: the first one trains."""
    from hpo.launch.devices import gpu_index
    from hpo.launch.inputs import check_device

    if device != "auto":
        check_device(device, "--device")
        return device
    index = gpu_index(device, last=True)
    return "cpu" if index is None else f"cuda:{index}"


def _log() -> None:
    logging.basicConfig(
        level=os.environ.get("HPO_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
