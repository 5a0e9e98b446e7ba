"""`hpo study create|list|show|stop|resume|delete`."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.options import Database, Json, Name, Study, connected, local, study_name

if TYPE_CHECKING:
    from hpo.results.snapshot import Snapshot

app = typer.Typer(help="Create, list, show, stop, resume or delete studies.", no_args_is_help=True)


@app.command()
def create(study: Study, database: Database = None) -> None:
    """Create a study without running it.

    For workers that are started apart, with hpo worker.
    """
    from hpo.launch.home import home
    from hpo.launch.run import prepare
    from hpo.results.data import show_on_dashboard
    from hpo.results.snapshot import StudyView
    from hpo.search.register import register

    spec, data = prepare(study)
    with connected(database) as connection:
        record, created = register(connection, spec, home(), data.as_dict())
        show_on_dashboard(StudyView(connection, record).search.study, data.as_dict())
    print(f"study {spec.name}: {'created' if created else 'exists already, the same study'}")


@app.command("list")
def list_studies(database: Database = None, json_output: Json = False) -> None:
    """List the studies of the database."""
    from hpo.cli.values import number
    from hpo.results.snapshot import StudyView
    from hpo.spec.errors import StudyError
    from storage.studies import Studies

    found: list[Snapshot] = []
    with connected(database) as connection:
        for record in Studies(connection).list():
            try:
                found.append(StudyView(connection, record).read())
            except StudyError as error:
                print(f"{record.name}: {error}", file=sys.stderr)
    if json_output:
        print(json.dumps([snapshot.as_dict() for snapshot in found]))
        return
    for snapshot in found:
        best, base = snapshot.best_trial(), (snapshot.base or {}).get(snapshot.metric)
        value = f", best {snapshot.metric} {number(best.value)}" if best else ""
        value += f", base model {number(base)}" if base is not None else ""
        trials = f"{snapshot.ended} of {snapshot.budget} trials"
        print(f"{snapshot.name}: {snapshot.state}, {trials}{value}")
    if not found:
        print("no studies yet; create one with: hpo run STUDY")


@app.command()
def show(study: Name, database: Database = None, json_output: Json = False) -> None:
    """Show a study's specification, trials and verdicts."""
    from hpo.cli.show import render, spec_lines, warning_lines
    from hpo.cli.values import Printer
    from hpo.results.data import data_lines
    from hpo.results.snapshot import StudyView
    from hpo.search.register import find

    with connected(database) as connection:
        view = StudyView(connection, find(connection, study_name(study)))
        snapshot = view.read()
    if json_output:
        print(json.dumps({**snapshot.as_dict(), "specification": view.record.spec}))
        return
    printer = Printer()
    printer.lines(spec_lines(view.spec))
    printer.lines(map(local, data_lines(view.record.data) if view.record.data else ()))
    printer.console.print(render(snapshot))
    printer.lines(warning_lines(snapshot))


@app.command()
def stop(study: Name, database: Database = None) -> None:
    """Stop a study's workers at a safe point.

    No trial is lost: hpo study resume, or hpo run, goes on.
    """
    from hpo.search.register import find
    from storage.studies import Studies

    with connected(database) as connection:
        record = find(connection, study_name(study))
        Studies(connection).request_stop(record.id)
    print(f"study {record.name}: stopping; go on with: hpo study resume {record.name}")


@app.command()
def resume(study: Name, database: Database = None) -> None:
    """Let a stopped study go on.

    hpo run does so by itself.
    """
    from hpo.search.register import find
    from storage.studies import Studies

    with connected(database) as connection:
        record = find(connection, study_name(study))
        Studies(connection).resume(record.id)
    print(f"study {record.name}: may go on; start workers with hpo run and its file, or hpo worker")


@app.command()
def delete(
    study: Name,
    database: Database = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study with its trials and checkpoints."""
    import optuna

    from hpo.search.artifacts import home_of, remove_artifacts
    from hpo.search.register import find
    from hpo.spec.errors import StudyError
    from storage.studies import Studies
    from storage.workers import Workers

    with connected(database) as connection:
        record = find(connection, study_name(study))
        if Workers(connection).present(record.id):
            raise StudyError(
                f"the study {record.name!r} has workers; stop it first: hpo study stop {study}"
            )
        if not yes and not _confirmed(record.name):
            raise StudyError(f"the study {record.name!r} was not deleted; --yes deletes unasked")
        storage = connection.optuna_storage()
        # Gone already where a person deleted it on the dashboard.
        with suppress(KeyError):
            remove_artifacts(storage, record.name, home_of(record))
            optuna.delete_study(study_name=record.name, storage=storage)
        Studies(connection).delete(record.id)
    shutil.rmtree(record.checkpoints, ignore_errors=True)
    print(f"study {record.name}: deleted")


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"Delete the study {name} with all its trials and checkpoints?")
