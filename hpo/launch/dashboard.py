"""The Optuna dashboard as a process of its own."""

from __future__ import annotations

import os
from wsgiref.simple_server import WSGIRequestHandler, make_server

from hpo.launch.home import DATABASE_VARIABLE


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def main() -> None:
    """Serve the database of HPO_DATABASE_URL on HPO_DASHBOARD_HOST and _PORT."""
    from optuna_dashboard import wsgi

    from storage.database import Database

    host = os.environ.get("HPO_DASHBOARD_HOST", "127.0.0.1")
    port = int(os.environ.get("HPO_DASHBOARD_PORT", "8080"))
    with Database.open(os.environ[DATABASE_VARIABLE], application_name="hpo-dashboard") as database:
        application = wsgi(database.optuna_storage())
        with make_server(host, port, application, handler_class=_Quiet) as server:
            server.serve_forever()
