"""System calls that sandboxed code cannot make, as a filter for the kernel (seccomp).

The limits hold because of it: without a second process the limit on memory is one
process's, and memory that such a limit does not count cannot be had. A refused call
fails with EPERM. Numbers are from the kernel's `syscall_64.tbl` and `unistd.h`.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Name: number on x86_64 and on aarch64, None where there is none.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Further processes; threads are made by clone, below.
    "fork": (57, None),
    "vfork": (58, None),
    # Other processes: their memory, descriptors, limits and priorities.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    # Sockets; socketpair remains, which asyncio needs.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    # Memory outside of the limit, some of which outlives the process.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Permissions: the container's socket is kept from its own user by them.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # Parts of the kernel that often had holes, or ways around this filter.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
}

_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


@dataclass(frozen=True)
class _Machine:
    architecture: int
    column: int
    clone: int
    clone3: int
    prlimit64: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 0, clone=56, clone3=435, prlimit64=302),
    "aarch64": _Machine(0xC00000B7, 1, clone=220, clone3=435, prlimit64=261),
}

_Instruction = tuple[int, int, int, int]


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`.

    `machine` is as `uname -m` names it, by default this one. Raises ValueError for
    one whose system calls are not known here.
    """
    name = machine or platform.machine()
    if name not in _MACHINES:
        raise ValueError(f"given machine {name}; allowed: {', '.join(_MACHINES)}")
    return b"".join(struct.pack("=HBBI", *line) for line in _program(_MACHINES[name]))


def _program(machine: _Machine) -> Iterator[_Instruction]:
    # In a jump the two numbers say how many lines are passed over if so, and if not.
    yield _LOAD, 0, 0, _ARCHITECTURE_AT
    yield _EQUAL, 1, 0, machine.architecture
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER_AT
    # A second set of numbers for the same calls.
    yield _AT_LEAST, 0, 1, _X32_BIT
    yield _fail(errno.EPERM)
    for numbers in REFUSED.values():
        number = numbers[machine.column]
        if number is not None:
            yield _EQUAL, 0, 1, number
            yield _fail(errno.EPERM)
    # Its flags are in memory, where a filter does not see them; the C library
    # then takes clone.
    yield _EQUAL, 0, 1, machine.clone3
    yield _fail(errno.ENOSYS)
    yield _EQUAL, 0, 3, machine.clone
    yield _LOAD, 0, 0, _FIRST_ARGUMENT_AT
    yield _ANY_BIT, 4, 0, _CLONE_THREAD
    yield _fail(errno.EPERM)
    # Limits may be set on oneself, process 0, alone.
    yield _EQUAL, 0, 2, machine.prlimit64
    yield _LOAD, 0, 0, _FIRST_ARGUMENT_AT
    yield _EQUAL, 0, 1, 0
    yield _RETURN, 0, 0, _ALLOW
    yield _fail(errno.EPERM)


def _fail(error: int) -> _Instruction:
    return _RETURN, 0, 0, _FAIL | error
