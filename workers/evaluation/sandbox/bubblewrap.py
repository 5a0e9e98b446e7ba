"""A sandbox made by bubblewrap: namespaces of its own, nothing but Python inside."""

from __future__ import annotations

import json
import os
import platform
import secrets
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from workers.evaluation.sandbox import bootstrap
from workers.evaluation.sandbox.interpreter import Interpreter
from workers.evaluation.sandbox.run import FILES_MIB, Limits, Program, Run, SandboxError
from workers.evaluation.sandbox.seccomp import seccomp_filter
from workers.evaluation.sandbox.supervise import Launch, Order, sealed_file, supervise

_BOOTSTRAP = "/bootstrap.py"
_NULL = "/dev/null"
_END_SECONDS = 30.0
_NOBODY = 65534
# Above the ranges that Linux distributions and systemd hand out.
_FIRST_USER, _USERS = 0x78000000, 0x01000000
_ALL_USERS = ["0", "0", "4294967295"]


@dataclass(frozen=True, slots=True)
class BubblewrapSandbox:
    """Each run has its own namespaces, limits and, started by root, its own user."""

    program: str
    """Path of `bwrap`, 0.7 or later."""
    interpreter: Interpreter

    def run(self, program: Program, stdin: bytes, limits: Limits) -> Run:
        """Run a program to its end; see `Sandbox`."""
        try:
            return self._run(program, stdin, limits)
        except OSError as error:
            # No process or descriptor to be had: nothing that a program could cause.
            raise SandboxError(f"bubblewrap cannot be started: {error}") from error

    def _run(self, program: Program, stdin: bytes, limits: Limits) -> Run:
        user = _new_user()
        order = Order(program, limits, user, count_threads=user is not None or _counted_apart())
        with ExitStack() as stack:
            filter_fd = sealed_file(stack, seccomp_filter())
            first = stack.enter_context(_FirstInside())
            tail = ["--seccomp", str(filter_fd), *first.options, "--"]
            start = [self.program, *_isolation(user), *_files(self.interpreter), *tail]
            python = [*self.interpreter.command, _BOOTSTRAP]
            launch = Launch(
                command=lambda *descriptors: [*start, *python, *map(str, descriptors)],
                environment=self.interpreter.environment,
                descriptors=(filter_fd, *first.descriptors),
                begun=first.found,
                end=first.end,
            )
            return supervise(launch, order, stdin)


class _FirstInside:
    """PID 1 of the sandbox's namespace, with which all others there die.

    It is held back until we have a descriptor of it: a mere number could be another
    process's by the time it is used, for bwrap itself ends before this one.
    """

    def __init__(self) -> None:
        self._info, self._info_end = os.pipe2(os.O_CLOEXEC)
        self._gate, self._gate_end = os.pipe2(os.O_CLOEXEC)
        self._open = {self._info, self._info_end, self._gate, self._gate_end}
        self._process: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Those that bwrap inherits."""
        return self._info_end, self._gate

    @property
    def options(self) -> list[str]:
        """Tell bwrap of them."""
        return ["--info-fd", str(self._info_end), "--block-fd", str(self._gate)]

    def found(self, _: subprocess.Popen[bytes]) -> None:
        """Take hold of it and let it go on; nothing where bwrap ended before."""
        self._open.remove(self._info_end)
        os.close(self._info_end)
        with open(self._info, "rb", closefd=False) as file:
            text = file.read()
        if text:
            with suppress(ProcessLookupError):
                self._process = os.pidfd_open(json.loads(text)["child-pid"])
                self._open.add(self._process)
            os.write(self._gate_end, b"\n")

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, wait until it is gone, and end bwrap."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            select.select([self._process], [], [], _END_SECONDS)
        process.kill()


def _isolation(user: int | None) -> list[str]:
    """Options for namespaces and privileges."""
    options = ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for namespace in ("ipc", "pid", "net", "uts", "cgroup-try"):
        options.append(f"--unshare-{namespace}")
    if user is None:
        return [*options, "--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
    # To become that user; with it these privileges go too.
    return [*options, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]


def _files(interpreter: Interpreter) -> list[str]:
    """Options for the files inside; there is no /proc, and of the devices one."""
    shown = [*interpreter.folders, *interpreter.loaders]
    if not any(Path(interpreter.executable).is_relative_to(path) for path in shown):
        shown.append(interpreter.executable)
    options = []
    # Those that bwrap makes by itself, its own user alone may pass.
    for folder in sorted({parent for path in (*shown, _NULL) for parent in Path(path).parents}):
        options += ["--perms", "0755", "--dir", str(folder)]
    for path in shown:
        options += ["--ro-bind", path, path]
    for path in interpreter.hidden:
        options += ["--tmpfs", path, "--remount-ro", path]
    options += ["--ro-bind", str(Path(bootstrap.__file__).resolve()), _BOOTSTRAP]
    options += ["--dev-bind", _NULL, _NULL]
    options += ["--perms", "1777", "--size", str(FILES_MIB << 20), "--tmpfs", "/tmp"]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _new_user() -> int | None:
    """A user whom nobody else is, for root to become; None for anybody else.

    As root, limits on the number of threads would not hold; as a user that runs
    other things they would count those.
    """
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != _ALL_USERS:
        return None
    return _FIRST_USER + secrets.randbelow(_USERS)


def _counted_apart() -> bool:
    """Whether each user namespace counts its own threads, as since Linux 5.14."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(minor.partition("-")[0])) >= (5, 14)
