"""The processes of a study on this machine, started and watched as children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal

from hpo.launch.home import DATABASE_VARIABLE

WorkerKind = Literal["trial", "evaluation"]
ERROR = "error: "
"""Leads every line that a command says before it ends with that code."""


@dataclass
class Child:
    """One child process and its log."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only us."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
            )
        self.started = time.monotonic()

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process is not None and self.code is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        if self.process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.code is not None

    def kill(self) -> None:
        """End it without asking."""
        if self.process is not None and self.code is None:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """What it said for a person before it ended, else its last line."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        told = list(takewhile(lambda line: line.startswith(ERROR), reversed(lines)))
        return "\n".join(line.removeprefix(ERROR) for line in reversed(told or lines[-1:]))


def worker(
    kind: WorkerKind,
    study: str,
    *,
    url: str | None,
    device: str,
    lease_seconds: float,
    logs: Path,
    memory_fraction: float | None = None,
) -> Child:
    """A worker of this study; it stops when this process dies.

    Without a URL it finds the embedded server as we did, and is one of its
    users: nobody else stops the server while the worker saves.
    """
    command = [
        *(sys.executable, "-m", "hpo", "worker", kind),
        *("--study", study, "--device", device),
        *("--lease-seconds", str(lease_seconds), "--parent", str(os.getpid())),
    ]
    if memory_fraction is not None:
        command += ["--memory-fraction", str(memory_fraction)]
    # The URL may hold a password: the environment shows it to nobody else.
    environment = {**os.environ, **({DATABASE_VARIABLE: url} if url is not None else {})}
    return Child(f"{kind} worker", command, environment, logs / f"{kind}-worker.log")


def dashboard(url: str, port: int, logs: Path) -> Child:
    """The Optuna dashboard, for this machine only: it asks for no password."""
    code = f"from hpo.launch.dashboard import main; main({port}, {os.getpid()})"
    environment = {**os.environ, DATABASE_VARIABLE: url}
    command = [sys.executable, "-c", code]
    return Child("dashboard", command, environment, logs / "dashboard.log")


def free_port(preferred: int) -> int:
    """The preferred port of 127.0.0.1, or a free one where it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
