"""Runs programs for others in a container that nothing else lives in.

    python -m workers.evaluation.sandbox.server SOCKET

It has to be the container's first process: no signal from inside ends that one, and
whatever a program leaves behind becomes its child. One program runs at a time, as
the user of the server itself, which has no privileges to become another. What keeps
it from the server is the filter for system calls, that the server's memory and
descriptors are closed to its own user, and that the folder of the socket is, too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from workers.evaluation.sandbox import bootstrap
from workers.evaluation.sandbox.interpreter import Interpreter, this_interpreter
from workers.evaluation.sandbox.messages import (
    Disconnected,
    decode_request,
    encode_failure,
    encode_run,
    receive,
    send,
)
from workers.evaluation.sandbox.remains import empty, end_children
from workers.evaluation.sandbox.run import Limits, Program, Run, SandboxError
from workers.evaluation.sandbox.seccomp import seccomp_filter
from workers.evaluation.sandbox.supervise import Launch, Order, supervise

_REQUEST_SECONDS = 60.0
_BACKLOG = 128
_WRITABLE = (Path("/tmp"), Path("/dev/shm"))
_MEMORY_MAX = Path("/sys/fs/cgroup/memory.max")
_OWN_MIB = 96
"""MiB for the server itself and the files of a program."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 4, 38, 22
_SECCOMP_MODE_FILTER = 2


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


class Server:
    """Takes programs from one connection after the other."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._interpreter = interpreter
        self._lines = seccomp_filter()
        self._control(_PR_SET_DUMPABLE, 0)

    def serve(self, listener: socket.socket) -> None:
        """Answer for ever."""
        while True:
            connection, _ = listener.accept()
            with connection, suppress(Disconnected, TimeoutError):
                connection.settimeout(_REQUEST_SECONDS)
                self._answer(connection)
            for folder in _WRITABLE:
                empty(folder)

    def _answer(self, connection: socket.socket) -> None:
        program, stdin, limits = decode_request(receive(connection))
        try:
            reply = encode_run(self._run(program, stdin, limits, connection))
        except SandboxError as error:
            reply = encode_failure(str(error))
        send(connection, reply)

    def _run(
        self, program: Program, stdin: bytes, limits: Limits, connection: socket.socket
    ) -> Run:
        _check_memory(limits)
        python = [*self._interpreter.command, str(Path(bootstrap.__file__).resolve())]
        launch = Launch(
            command=lambda *descriptors: [*python, *map(str, descriptors)],
            environment=self._interpreter.environment,
            before_exec=self._confine,
            end=end_children,
        )
        # The container counts the processes; others on its host may have this user's number.
        order = Order(program, limits, count_threads=False, first_to_go=True)
        try:
            return supervise(launch, order, stdin, abandoned=connection)
        except (OSError, subprocess.SubprocessError) as error:
            # The second where the new process cannot give up its system calls.
            raise SandboxError(f"the container does not start a process: {error}") from error

    def _confine(self) -> None:
        """Give up system calls for good."""
        os.chdir("/tmp")
        os.setsid()
        self._control(_PR_SET_NO_NEW_PRIVS, 1)
        count = len(self._lines) // 8
        program = _FilterProgram(count, self._lines)
        self._control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))

    def _control(self, option: int, *values: int) -> None:
        words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)][:4]
        if self._libc.prctl(option, *words) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option}) is refused")


def _check_memory(limits: Limits) -> None:
    """A program must come to its own limit before it comes to the container's."""
    text = _MEMORY_MAX.read_text().strip() if _MEMORY_MAX.exists() else "max"
    if text != "max" and limits.memory_mib + _OWN_MIB > int(text) >> 20:
        raise SandboxError(
            f"given a program that may take {limits.memory_mib} MiB; allowed: {_OWN_MIB} less than "
            f"the sandbox container's {int(text) >> 20} MiB; raise SANDBOX_MEMORY in .env"
        )


def listen(path: Path) -> socket.socket:
    """A socket at `path` whose folder its own user cannot enter; others can.

    The owner's permissions count for the owner alone, and programs cannot change
    them: `chmod` is not among the system calls that they have.
    """
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(_BACKLOG)
    path.parent.chmod(0o011)
    return listener


def main() -> None:
    """Serve at the socket that the command line names."""
    if len(sys.argv) != 2:
        raise SystemExit(f"given {sys.argv[1:]}; allowed: the path of a socket")
    if os.getpid() != 1:
        raise SystemExit("the server has to be the first process of its container")
    # From inside no signal reaches a first process that does not ask for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    server = Server(this_interpreter())
    with listen(Path(sys.argv[1])) as listener:
        print(f"running programs for those who connect to {sys.argv[1]}", flush=True)
        server.serve(listener)


if __name__ == "__main__":
    main()
