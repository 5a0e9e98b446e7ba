"""Processes that take turns, some of them killed while they hold or wait.

Run as a program: `turn_takers.py URL JOURNAL PROCESSES SECONDS`. The journal
gets a line for each begin and end of a turn and for each kill, with the time
by the clock that all processes of a machine share.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from storage.database import Database
from storage.turns import Turn

DEVICE = "the device"


@dataclass(frozen=True)
class Interval:
    """One turn of one process, until it was given or its holder killed."""

    process: int
    begin: float
    end: float
    killed: bool


def read_journal(journal: Path) -> list[Interval]:
    """The turns in the order in which they began; the last one of each process may be missing."""
    events = sorted(
        (float(moment), int(process), what)
        for moment, process, what in (line.split() for line in journal.read_text().splitlines())
    )
    begun: dict[int, float] = {}
    turns = []
    for moment, process, what in events:
        if what == "begin":
            begun[process] = moment
        elif process in begun:
            turns.append(Interval(process, begun.pop(process), moment, what == "killed"))
    return sorted(turns, key=lambda turn: turn.begin)


def main(url: str, journal: Path, processes: int, seconds: float) -> None:
    """Keep so many processes taking turns, and kill one of them now and then."""
    chance = random.Random(0)
    children = [_fork(url, journal) for _ in range(processes)]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(chance.uniform(0.02, 0.1))
        victim = chance.randrange(processes)
        _kill(children[victim], journal)
        children[victim] = _fork(url, journal)
    for child in children:
        _kill(child, journal)


def _fork(url: str, journal: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            _take_turns(url, journal)
        finally:
            os._exit(1)
    return child


def _kill(child: int, journal: Path) -> None:
    # Written before: whoever comes next begins after that.
    _write(journal, child, "killed")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _take_turns(url: str, journal: Path) -> None:
    chance = random.Random(os.getpid())
    with Database.open(url) as database, Turn(database, DEVICE) as turn:
        while True:
            while not turn.wait(0.05):
                pass
            _write(journal, os.getpid(), "begin")
            time.sleep(chance.uniform(0.0, 0.004))
            _write(journal, os.getpid(), "end")
            turn.give()


def _write(journal: Path, process: int, what: str) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{time.monotonic()} {process} {what}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
