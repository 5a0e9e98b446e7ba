"""The filter's form; that it holds is a matter of the sandbox's own tests."""

from __future__ import annotations

import errno
import struct

import pytest

from workers.evaluation.sandbox.seccomp import REFUSED, seccomp_filter

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = FAIL | errno.EPERM, FAIL | errno.ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """What the kernel would do at a system call."""
    seen = {0: number, 4: architecture or ARCHITECTURES[machine], 16: argument}
    lines = list(struct.iter_unpack("=HBBI", seccomp_filter(machine)))
    at = value = 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            value = seen[operand]
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            at += yes if holds[code] else no


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_every_call_is_refused_under_its_number(machine: str, column: int) -> None:
    numbers = [row[column] for row in REFUSED.values() if row[column] is not None]
    assert len(numbers) == len(set(numbers))
    assert {verdict(machine, number) for number in numbers if number is not None} == {EPERM}
    assert len(seccomp_filter(machine)) // 8 < 4096


@pytest.mark.parametrize(
    ("machine", "write", "clone", "prlimit"), [("x86_64", 1, 56, 302), ("aarch64", 64, 220, 261)]
)
def test_threads_yes_processes_no(machine: str, write: int, clone: int, prlimit: int) -> None:
    assert verdict(machine, write) == ALLOW
    assert verdict(machine, clone, 0x003D0F00) == ALLOW
    assert verdict(machine, clone, 0x01200011) == EPERM
    assert verdict(machine, 435) == ENOSYS
    assert verdict(machine, prlimit, 0) == ALLOW
    assert verdict(machine, prlimit, 1) == EPERM


def test_calls_of_another_architecture_end_the_process() -> None:
    assert verdict("x86_64", 1, architecture=0x40000003) == KILL
    assert verdict("x86_64", 0x40000001) == EPERM


def test_an_unknown_machine() -> None:
    with pytest.raises(ValueError, match="given machine riscv64; allowed: x86_64, aarch64"):
        seccomp_filter("riscv64")
