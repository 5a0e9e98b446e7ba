"""`hpo status`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.options import Database, Json, Name, connected, study_name

if TYPE_CHECKING:
    from hpo.results.snapshot import Snapshot, StudyView


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(status)


def status(
    study: Name,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the study ends.")] = False,
    json_output: Json = False,
    database: Database = None,
) -> None:
    """Show how a study stands."""
    from rich.live import Live

    from hpo.cli.show import render
    from hpo.cli.values import Printer
    from hpo.results.snapshot import StudyView
    from hpo.search.register import find

    name = study_name(study)
    console = Printer().console
    with connected(database) as connection:
        view = StudyView(connection, find(connection, name))

        def show(snapshot: Snapshot) -> None:
            if json_output:
                print(json.dumps(snapshot.as_dict()), flush=True)
            else:
                console.print(render(snapshot))

        snapshot = view.read()
        if not watch:
            show(snapshot)
            return
        if json_output or not console.is_terminal:
            _follow(view, show)
            return
        with Live(render(snapshot), console=console, auto_refresh=False) as live:
            _follow(view, lambda seen: live.update(render(seen), refresh=True))


def _follow(view: StudyView, show: Callable[[Snapshot], None]) -> None:
    while True:
        view.refresh()
        snapshot = view.read()
        show(snapshot)
        if snapshot.state in ("finished", "stopped"):
            return
        time.sleep(1.0)
