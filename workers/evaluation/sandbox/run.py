"""What is run in a sandbox, within which limits, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Ending = Literal["exited", "timed_out", "out_of_memory", "too_much_output", "killed"]
Report = Literal["finished", "failed", "raised", "exited"]

FILES_MIB = 16
"""MiB that a program may write below /tmp."""


class SandboxError(RuntimeError):
    """The sandbox itself does not work; it says nothing about the program."""


@dataclass(frozen=True, slots=True)
class Program:
    """Python code for a process of its own.

    Without `tests` it is a script: it runs as `__main__` to its end. With `tests`
    it is a library: context, code and tests run one after the other in one
    namespace that is not `__main__`, and the process ends with the last test.
    """

    code: str
    tests: str | None = None
    context: str = ""
    """Runs before the code, in the same namespace."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take."""

    seconds: float
    """Wall-clock time from the program's first line; Python's own start does not count."""
    memory_mib: int
    """MiB of address space, the interpreter's own among them (about 20)."""
    threads: int = 64
    """Threads at once. A second process cannot be started at all."""
    output_bytes: int = 4 << 20
    """Bytes on standard output and standard error together."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a program."""

    ending: Ending
    status: int | None
    """Exit status; 128 and the signal's number where a signal ended it; None where we did."""
    output: bytes
    errors: bytes
    report: Report | None
    """What the sandbox's own code in the process says of the program. `finished`:
    it came to the end of its last line, tests included; `failed`: one of the tests
    has an assertion that does not hold; `raised`: another exception; `exited`: it
    called `exit`. None where the process ended without a word."""
    seconds: float
    """Wall-clock time, counted as in `Limits`."""

    @property
    def finished(self) -> bool:
        """Whether the program came to the end of its last line, tests included."""
        return self.report == "finished"


class Sandbox(Protocol):
    """Runs programs without network, without files and within limits."""

    def run(self, program: Program, stdin: bytes, limits: Limits) -> Run:
        """Run a program to its end. May be called from several processes and threads.

        Whatever it does, nothing of it is left when this returns. Raises
        SandboxError when the sandbox, not the program, is at fault.
        """
