"""Where things lie on this machine: the state folder and the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DATABASE_VARIABLE = "HPO_DATABASE_URL"
HOME_VARIABLE = "HPO_HOME"


def home() -> Path:
    """The state folder: HPO_HOME, or the user's own by the system's custom."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return platformdirs.user_state_path("hpo").resolve()


def data_cache() -> Path:
    """Where prepared data is kept."""
    return home() / "data"


def variables() -> Mapping[str, str]:
    """What `${NAME}` may stand for in a study file."""
    return {**os.environ, HOME_VARIABLE: str(home())}


def configured_url(option: str | None) -> str | None:
    """The database that was asked for; None for the embedded one."""
    return option or os.environ.get(DATABASE_VARIABLE) or None


@contextmanager
def database_url(option: str | None) -> Iterator[str]:
    """URL of the database to use; the embedded server runs meanwhile.

    Raises DatabaseError when the embedded server cannot be started.
    """
    chosen = configured_url(option)
    if chosen is not None:
        yield chosen
        return
    from storage.embedded import EmbeddedPostgres

    with EmbeddedPostgres(home() / "postgres") as server:
        yield server.url
