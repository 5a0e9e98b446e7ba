"""`hpo doctor`."""

from __future__ import annotations

import typer

from hpo.cli.options import Database

MARKS = {True: "ok     ", False: "PROBLEM"}


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(doctor)


def doctor(database: Database = None) -> None:
    """Check what is installed and reachable.

    Looks at packages, devices, the state folder and the database, and says
    what to do about each problem.
    """
    from hpo.launch.doctor import examine

    findings = list(examine(database))
    for finding in findings:
        print(f"{MARKS[finding.fine]} {finding.subject}: {finding.found}")
        if finding.advice:
            print(f"        {finding.advice}")
    problems = sum(not finding.fine for finding in findings)
    print("all is well" if not problems else f"{problems} problem(s)")
    if problems:
        raise typer.Exit(1)
