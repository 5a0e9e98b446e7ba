"""A request that this worker holds, and its lease."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.errors import LeaseLost
from storage.records import EvaluationRequest
from workers.renewal import Renewer
from workers.session import StudySession


@dataclass(eq=False)
class Claim:
    """One claimed request."""

    session: StudySession
    request: EvaluationRequest
    lost: bool = False
    """Whether it was cancelled or taken over while it was scored."""
    renewer: Renewer = field(init=False)

    def __post_init__(self) -> None:
        queue, request = self.session.queue, self.request
        self.renewer = Renewer(lambda: queue.renew(request), self.session.lease_seconds)

    def renew(self) -> None:
        """Hold on to it while it is scored, as long as it is wanted."""
        if self.lost:
            return
        try:
            self.renewer()
        except LeaseLost:
            self.lost = True

    def release(self) -> None:
        """Hand it back untried."""
        self.session.queue.release(self.request)
