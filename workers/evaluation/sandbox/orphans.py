"""Sandboxes that were killed while they were made."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from workers.evaluation.sandbox import bootstrap


def end_orphans(program: str) -> None:
    """Kill what bwrap has left where it was killed itself, with its caller, in its first moments.

    The first process of the new namespace then waits for ever for bwrap's word to
    go on. In any other case it ends with bwrap, which is its parent; without that
    parent it is of no use to anybody. Other users' processes are theirs.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Gone meanwhile, or not ours to look at.
            with suppress(OSError):
                _end_if_orphan(int(entry.name), program)


def _end_if_orphan(number: int, program: str) -> None:
    if not _is_orphan(number, program):
        return
    process = os.pidfd_open(number)
    try:
        # The number may have passed on to another process before.
        if _is_orphan(number, program):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)


def _is_orphan(number: int, program: str) -> bool:
    """Whether it is the first process of a namespace that we had made, without its bwrap."""
    if not _is_bwrap_of_ours(number, program):
        return False
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    first = status["NSpid"].split()[1:] == ["1"]
    parent = int(status["PPid"])
    return first and not (parent and _is_bwrap_of_ours(parent, program))


def _is_bwrap_of_ours(number: int, program: str) -> bool:
    words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    ours = str(Path(bootstrap.__file__).resolve()).encode()
    return words[0] == program.encode() and ours in words
