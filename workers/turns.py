"""A device that this process shares with others, in turns.

Between its turns a process keeps what must stay, such as weights and an
optimizer's moments, and gives everything else back. Who has the turn may
use all that is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from hpo.spec.sharing import takes_turns
from storage.turns import Turn
from workers.devices import device_identity, free_memory, release_cached_memory
from workers.session import StudySession

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Longest wait in line between two looks at what else there is to do."""
LOOK_SECONDS = 1.0
"""A device is asked back at most this often: giving it away takes milliseconds."""
AT_ONCE_SECONDS = 0.05
"""A shorter wait is not worth being shown."""
ROOM_SECONDS = 5.0
"""How long a driver may take to clear up after a process that was killed."""
ROOM_SLACK = 256 << 20
"""Bytes by which free memory may differ from one turn to the next."""


class TurnLost(Exception):
    """The session that held the turn is gone: somebody else may use the device by now.

    What was computed is given up, and done anew in another turn.
    """


def _none() -> int:
    return 0


class Turns:
    """The turns of a device that is not shared, or shared without them: always ours."""

    def ready(self, doing: str) -> bool:
        """Whether the device is ours for the next step; to be asked before each.

        Gives it away first when somebody waits for it, then waits for it, a
        second at most. People are shown that, and `doing` when it is over.
        """
        return True

    def take(self, doing: str, progress: Callable[[], None]) -> None:
        """Wait until the device is ours; what `progress` raises ends the waiting."""
        while not self.ready(doing):
            progress()

    def rest(self) -> None:
        """Let others have the device: there is nothing to compute for the moment."""

    def disturbed(self) -> bool:
        """Whether somebody else may have used the device in our turn."""
        return False

    def before_rest(self, lay_down: Callable[[], None]) -> None:
        """Have `lay_down` called whenever the device is given away, to free its memory."""

    @contextmanager
    def mine(
        self,
        doing: str,
        progress: Callable[[], None],
        waiting: Callable[[], int] = _none,
    ) -> Iterator[Callable[[], None]]:
        """A piece of work within one turn; gives the `progress` to be called meanwhile.

        That raises TurnLost too. `waiting` counts the other pieces that wait
        when a turn begins: they are done in it before somebody else's turn.
        """
        yield progress

    def close(self) -> None:
        """Leave the device."""


class DeviceTurns(Turns):
    """The turns of a shared device."""

    def __init__(
        self,
        turn: Turn,
        name: str,
        *,
        show: Callable[[str], None],
        lay_down: Callable[[], None],
        free: Callable[[], int] = _none,
    ) -> None:
        """`name` is the device's for people, and `show` shows them something.

        `lay_down` frees what the device need not keep. `free` tells its free
        bytes, where a turn should begin no sooner than they are back.
        """
        self._turn = turn
        self._name = name
        self._show = show
        self._lay_down = [lay_down]
        self._free = free
        self._free_at_rest = 0
        self._ours = False
        self._looked = 0.0
        self._since: float | None = None
        self._pieces = 0
        self._turns = 0
        self._waited = 0.0

    def ready(self, doing: str) -> bool:
        """See Turns."""
        return (self._ours and self._keeps()) or self._waits(doing)

    def rest(self) -> None:
        """See Turns. A device that nobody else uses is kept, with what lies on it."""
        self._since = None
        line = self._turn.line()
        if line is None or line.others:
            self._end()

    def disturbed(self) -> bool:
        """See Turns."""
        return self._turn.line() is None

    def before_rest(self, lay_down: Callable[[], None]) -> None:
        """See Turns."""
        self._lay_down.insert(0, lay_down)

    @contextmanager
    def mine(
        self,
        doing: str,
        progress: Callable[[], None],
        waiting: Callable[[], int] = _none,
    ) -> Iterator[Callable[[], None]]:
        """See Turns."""
        if not (self._ours and self._turn.holds()):
            self._end()
            while not self._waits(doing):
                progress()
            self._pieces = 1 + waiting()

        def checked() -> None:
            if not self._turn.holds():
                raise TurnLost(f"the turn of {self._name} was lost")
            progress()

        try:
            yield checked
        finally:
            self._pieces -= 1
            line = self._turn.line()
            if line is None or (line.waiting and self._pieces < 1):
                self._end()

    def close(self) -> None:
        """See Turns."""
        if self._turns:
            logger.info("%s: %d turns, %.1f s of waiting", self._name, self._turns, self._waited)
        self._turn.close()

    def _keeps(self) -> bool:
        """Whether the turn goes on; it ends when somebody waits, or when it is lost."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and self._turn.holds():
            return True
        self._looked = now
        line = self._turn.line()
        if line is not None and not line.waiting:
            return True
        self._end()
        return False

    def _end(self) -> None:
        """Give the device away, or leave the line."""
        if self._ours:
            self._ours = False
            for lay_down in self._lay_down:
                lay_down()
            self._free_at_rest = self._free()
        self._turn.give()

    def _waits(self, doing: str) -> bool:
        """Stand in line for a moment, later for longer; whether the turn has come."""
        now = time.monotonic()
        since, self._since = self._since, self._since or now
        if not self._turn.wait(AT_ONCE_SECONDS if since is None else WAIT_SECONDS):
            if since is None:
                self._show(f"waiting for its turn on {self._name}")
            return False
        if since is not None:
            self._show(doing)
        self._begin(since or now)
        return True

    def _begin(self, since: float) -> None:
        self._ours, self._since = True, None
        self._turns += 1
        self._looked = time.monotonic()
        self._waited += self._looked - since
        while self._free() < self._free_at_rest - ROOM_SLACK:
            if time.monotonic() > self._looked + ROOM_SECONDS:
                logger.info("%s has less free memory than in the turn before", self._name)
                return
            time.sleep(AT_ONCE_SECONDS)


@contextmanager
def open_turns(
    session: StudySession, device: torch.device, name: str, *, await_room: bool = False
) -> Iterator[Turns]:
    """This worker's turns of a device, as the study has it; `name` is for people.

    `await_room` is for those to whom a lack of memory means more than to try again.
    """
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    if not takes_turns(session.spec.evaluation.sharing, kind):
        yield Turns()
        return
    turns = DeviceTurns(
        Turn(session.database, device_identity(device)),
        name,
        show=session.phase,
        lay_down=lambda: release_cached_memory(device),
        free=(lambda: free_memory(device)) if await_room else _none,
    )
    try:
        yield turns
    finally:
        turns.close()
