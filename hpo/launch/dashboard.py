"""The Optuna dashboard on a study database."""

from __future__ import annotations

import os
from wsgiref.simple_server import WSGIRequestHandler, make_server

from hpo.launch.home import DATABASE_VARIABLE, home
from hpo.parent import stop_with_parent
from storage.database import Database

HOST = "127.0.0.1"
"""For this machine only: the dashboard asks for no password."""


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def serve(url: str, port: int) -> None:
    """Serve the dashboard until the process is stopped.

    Files that are attached to trials are those of this state folder.
    """
    from optuna_dashboard import wsgi

    from hpo.search.artifacts import ArtifactFolder

    with Database.open(url, application_name="hpo-dashboard") as database:
        application = wsgi(database.optuna_storage(), artifact_store=ArtifactFolder(home()))
        with make_server(HOST, port, application, handler_class=_Quiet) as server:
            server.serve_forever()


def main(port: int, parent: int) -> None:
    """Serve the database of HPO_DATABASE_URL as a child of `parent`."""
    stop_with_parent(parent)
    serve(os.environ[DATABASE_VARIABLE], port)
