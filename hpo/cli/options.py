"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.database import Database as Connection

Database = Annotated[
    str | None,
    typer.Option(
        help="Postgres of your own, postgresql://USER:PASSWORD@HOST/NAME; "
        "HPO_DATABASE_URL serves too. Default: an embedded server.",
        show_default=False,
    ),
]
Study = Annotated[str, typer.Argument(help="A study file or the name of a preset.")]
Name = Annotated[str, typer.Argument(help="Name of a study, or its file.")]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder for results and logs. Default: results/STUDY.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def local(line: str) -> str:
    """A line with the paths below the working folder named from there."""
    return line.replace(f"{Path.cwd()}{os.sep}", "")


def study_name(given: str) -> str:
    """The study's name: given as it is, or read from its file."""
    from hpo.spec.load import is_file_name, load_study

    if not is_file_name(given):
        return given
    from hpo.launch.home import variables

    return load_study(given, variables()).name


@contextmanager
def connected(database: str | None) -> Iterator[Connection]:
    """The database that was asked for, opened; the embedded server runs meanwhile."""
    from hpo.launch.home import database_url
    from storage.database import Database as Connection

    with database_url(database) as url, Connection.open(url) as connection:
        yield connection
