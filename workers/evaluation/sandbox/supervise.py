"""Starting a sandboxed process and seeing it through."""

from __future__ import annotations

import marshal
import os
import resource
import secrets
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from math import ceil

from workers.evaluation.sandbox.bootstrap import CODE, CONTEXT, TESTS
from workers.evaluation.sandbox.run import FILES_MIB, Limits, Program, Run, SandboxError
from workers.evaluation.sandbox.watch import Watch


@dataclass(frozen=True, slots=True)
class Order:
    """What the code that starts inside the sandbox is told to do."""

    program: Program
    limits: Limits
    user: int | None = None
    """User to become; None to stay."""
    count_threads: bool = True
    """Whether the user's threads may be limited: none of others are counted with them."""
    first_to_go: bool = False
    """Whether the kernel, when memory is short, should end this process before others."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def content(self) -> bytes:
        """The order as the bootstrap reads it."""
        tests = self.program.tests
        parts = [(CONTEXT, self.program.context), (CODE, self.program.code), (TESTS, tests or "")]
        return marshal.dumps(
            {
                "token": self.token,
                "parts": [(label, source) for label, source in parts if source],
                "name": "__main__" if tests is None else "answer",
                "memory": self.limits.memory_mib << 20,
                "cpu": ceil(self.limits.seconds) + 1,
                "threads": self.limits.threads if self.count_threads else 0,
                "files": FILES_MIB << 20,
                "user": self.user,
                "first_to_go": self.first_to_go,
            }
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """How a sandbox's process is started and ended."""

    command: Callable[[int, int], Sequence[str]]
    """The command for the two descriptors that the bootstrap is given."""
    environment: Mapping[str, str]
    """All its variables."""
    descriptors: Sequence[int] = ()
    """Further ones that it inherits."""
    before_exec: Callable[[], None] | None = None
    """Called in the new process before it is the command."""
    begun: Callable[[subprocess.Popen[bytes]], None] | None = None
    """Called here as soon as the command runs."""
    end: Callable[[subprocess.Popen[bytes]], None] = subprocess.Popen.kill
    """Ends all that the command has started; called too when it has ended by itself."""


def sealed_file(stack: ExitStack, content: bytes) -> int:
    """A descriptor of a file in memory that nobody can change or lengthen."""
    descriptor = os.memfd_create("hpo-sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    return descriptor


def supervise(
    launch: Launch, order: Order, stdin: bytes, abandoned: socket.socket | None = None
) -> Run:
    """Start a process, have it obey `order`, and leave nothing of it.

    `abandoned` is a connection whose end, or a word on it, ends the run too. Raises
    SandboxError when the program was never begun.
    """
    _check_memory(order.limits)
    with ExitStack() as stack:
        order_fd = sealed_file(stack, order.content())
        stdin_fd = sealed_file(stack, stdin)
        # A pair of sockets: unlike a pipe's, its other end cannot be opened by path.
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        process = subprocess.Popen(
            launch.command(order_fd, theirs.fileno()),
            stdin=stdin_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=launch.environment,
            pass_fds=(order_fd, theirs.fileno(), *launch.descriptors),
            preexec_fn=launch.before_exec,
        )
        stack.enter_context(process)
        stack.callback(launch.end, process)
        theirs.close()
        if launch.begun is not None:
            launch.begun(process)
        watch = stack.enter_context(Watch(process, ours, order.limits, abandoned))
        watch.until_the_end()
        launch.end(process)
        process.wait()
        watch.read_the_rest()
        return watch.run(order.token)


def _check_memory(limits: Limits) -> None:
    """Refuse what could not be had: a process cannot raise the limit that it was given."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY and limits.memory_mib > hard >> 20:
        raise SandboxError(
            f"given a program that may take {limits.memory_mib} MiB; allowed: the {hard >> 20} MiB "
            "of the process that starts it"
        )
