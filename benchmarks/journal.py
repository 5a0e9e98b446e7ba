"""What a trial worker's log tells about the switch from one trial to the next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from benchmarks.measured import Switch

ENTRY = re.compile(
    r"(?P<time>[\d-]+ [\d:]+,\d{3}) INFO workers\.trial\.attempt: trial (?P<number>\d+) "
    r"(?:is (?P<decided>decided) after batch (?P<steps>\d+)"
    r"|took its first step \((?P<milliseconds>\d+) ms\))"
)


@dataclass(frozen=True)
class Entry:
    """The moment of a trial's end or of its first optimizer step."""

    time: datetime
    number: int
    decided: bool
    """Whether its end was decided; otherwise it took its first step."""
    steps: int = 0
    """Optimizer steps taken when the end was decided."""
    seconds: float = 0.0
    """How long the first step took."""


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries among the lines of a log."""
    for line in lines:
        found = ENTRY.match(line)
        if found is not None:
            yield _entry(found)


def _entry(found: re.Match[str]) -> Entry:
    return Entry(
        time=datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S,%f"),
        number=int(found["number"]),
        decided=found["decided"] is not None,
        steps=int(found["steps"] or 0),
        seconds=int(found["milliseconds"] or 0) / 1000,
    )


def switches(found: Iterable[Entry]) -> list[Switch]:
    """The switch from each trial to the next.

    A trial that ended in another way, such as by diverging, has no entry of
    its end, and the switch behind it is left out.
    """
    found_switches = []
    end: Entry | None = None
    for entry in found:
        if end is not None and not entry.decided:
            seconds = (entry.time - end.time).total_seconds()
            found_switches.append(Switch(seconds=seconds, first_step=entry.seconds))
        end = entry if entry.decided else None
    return found_switches


def total_steps(found: Iterable[Entry]) -> int:
    """Optimizer steps of all trials whose end was decided."""
    return sum(entry.steps for entry in found if entry.decided)
