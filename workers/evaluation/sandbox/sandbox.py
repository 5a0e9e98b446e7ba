"""The sandbox of this machine: bubblewrap, or a container beside us."""

from __future__ import annotations

import os
import shutil

from hpo.spec.errors import InputError
from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.sandbox.container import ContainerSandbox
from workers.evaluation.sandbox.interpreter import this_interpreter
from workers.evaluation.sandbox.orphans import end_orphans
from workers.evaluation.sandbox.run import Limits, Program, Run, Sandbox, SandboxError
from workers.evaluation.sandbox.seccomp import seccomp_filter

__all__ = [
    "VARIABLE",
    "Limits",
    "Program",
    "Run",
    "Sandbox",
    "SandboxError",
    "find_sandbox",
    "most_at_once",
]

VARIABLE = "HPO_SANDBOX"
"""Names the socket of a container that runs the code."""

_TRIAL = Limits(seconds=60.0, memory_mib=256)
_REMEDY = (
    "install bubblewrap 0.7 or later (Debian and Ubuntu: apt-get install bubblewrap), "
    f"or set {VARIABLE} to the socket of a sandbox container, as docker-compose.yml does"
)


def find_sandbox(*, server_seconds: float = 60.0) -> Sandbox:
    """A sandbox that has run a program; the caller keeps it.

    The container whose socket `HPO_SANDBOX` names, and for which `server_seconds`
    are waited, else bubblewrap. Takes a few tenths of a second. Raises InputError
    where there is none: code is never run without.
    """
    socket = os.environ.get(VARIABLE)
    sandbox = ContainerSandbox(socket, server_seconds) if socket else _bubblewrap()
    try:
        run = sandbox.run(Program("print(6 * 7)"), b"", _TRIAL)
    except SandboxError as error:
        raise InputError(_refusal(str(error), socket)) from error
    if run.output != b"42\n" or run.status != 0:
        words = run.errors.decode(errors="replace").strip()
        raise InputError(_refusal(words[-500:] or f"a trial program was {run.ending}", socket))
    return sandbox


def most_at_once() -> int | None:
    """How many programs run at once in what `find_sandbox` finds; None for any number.

    Others would wait for their turn in the container, and their time with them.
    """
    return 1 if os.environ.get(VARIABLE) else None


def _bubblewrap() -> BubblewrapSandbox:
    program = shutil.which("bwrap")
    if program is None:
        raise InputError(f"no sandbox to run code in: bwrap is not on the PATH; {_REMEDY}")
    try:
        # The filter knows not every machine.
        seccomp_filter()
        end_orphans(program)
        return BubblewrapSandbox(program, this_interpreter())
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(_refusal(str(error), None)) from error


def _refusal(reason: str, socket: str | None) -> str:
    if socket:
        return (
            f"no sandbox to run code in: {VARIABLE} is {socket}: {reason}; start the sandbox "
            f"container (docker compose up sandbox), or unset {VARIABLE} to use bubblewrap"
        )
    return f"no sandbox to run code in: bubblewrap does not work here: {reason}; {_REMEDY}"
