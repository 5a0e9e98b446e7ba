"""The command `hpo` in processes that have the heavy libraries imported already.

Importing torch, transformers and peft costs seconds of computing, and most
tests of a command are about something else. A process forked from one that
has imported them is as real: its arguments, environment, folder, output,
signals and end are its own. The tests of whole studies start theirs cold, as
a person does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

HEAVY = [
    "hpo.cli.main",
    "hpo.cli.show",
    "storage.database",
    "transformers.models.qwen2.modeling_qwen2",
    "workers.data.preparing.build",
    "workers.evaluation.serve",
    "workers.trial.worker",
]
"""None of them imports vLLM, which reads its settings from the environment then."""


@dataclass(frozen=True)
class WarmProcess:
    """One command; behaves like a `subprocess.Popen`."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or the signal's number below zero, or None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises TimeoutExpired when it goes on for so many seconds."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("hpo", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_hpo(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    out: Path,
    err: Path | None = None,
    before: Callable[[], None] | None = None,
) -> WarmProcess:
    """Start `hpo` with these arguments in a folder; its output is added to files.

    Errors go to `out` too unless `err` is given. `before` is called in the
    process first, to have it watched from inside; it can be pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    outputs = (str(out), str(err or out))
    process = context.Process(
        target=_hpo, args=([*arguments], str(folder), dict(environment), outputs, before)
    )
    process.start()
    return WarmProcess(process)


def _hpo(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    outputs: tuple[str, str],
    before: Callable[[], None] | None,
) -> None:
    """What a new interpreter would do for `python -m hpo`."""
    os.setsid()
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _redirect(0, os.devnull, os.O_RDONLY)
    for descriptor, file in enumerate(outputs, start=1):
        _redirect(descriptor, file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    sys.argv = ["hpo", *arguments]
    if before is not None:
        before()
    try:
        runpy.run_module("hpo", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def _redirect(descriptor: int, file: str, flags: int) -> None:
    opened = os.open(file, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)
