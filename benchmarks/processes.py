"""Processes of both ways, in the same environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hpo.launch.home import DATABASE_VARIABLE, HOME_VARIABLE

LAST_LINES = 20


def run(arguments: list[str], home: Path) -> str:
    """Run Python with these arguments and return its standard output.

    Each process has one thread for its computations, so that no way gains or
    loses by the number of cores. Exits, with the end of the error output, when
    the process fails.
    """
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        lines = (ended.stdout + ended.stderr).strip().splitlines()[-LAST_LINES:]
        sys.exit("\n".join([f"python {' '.join(arguments)} failed:", *lines]))
    return ended.stdout


def environment(home: Path) -> Mapping[str, str]:
    """The state folder, and with it the embedded database, is one of our own."""
    kept = {name: value for name, value in os.environ.items() if name != DATABASE_VARIABLE}
    return {**kept, HOME_VARIABLE: str(home), "OMP_NUM_THREADS": "1"}
