"""One job at a time, beside the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, cast

logger = logging.getLogger(__name__)


class Abandoned(Exception):
    """What a job was doing is no longer wanted."""


class Background:
    """Runs jobs in a thread of its own, in the order in which they are given.

    There is one at a time: giving another waits for the one before. What a
    job raises is raised again where its giver next asks. Leaving the block
    abandons the job that runs, and waits for it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self._job: Future[None] | None = None
        self._abandoned = False

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned = True
        self._executor.shutdown(wait=True)
        failed = None if self._job is None else self._job.exception()
        if failed is not None and not _comes_of_leaving(failed):
            # Too late to be raised: what was wanted of the job is no longer.
            logger.warning("left undone at the end: %s: %s", type(failed).__name__, failed)

    def check(self) -> None:
        """Raise what the job raised, if it is over."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the job, and raise what it raised."""
        if self._job is not None:
            job, self._job = self._job, None
            job.result()

    def begin(self, job: Callable[[], None]) -> None:
        """Start a job, after the one before; raises what that one raised."""
        self.wait()
        self._job = self._executor.submit(job)

    def require_wanted(self) -> None:
        """For the job itself: raise Abandoned when nobody wants it any more."""
        if self._abandoned:
            raise Abandoned

    def stream(self, file: IO[bytes]) -> IO[bytes]:
        """For the job itself: a file whose `write` raises Abandoned then."""
        return cast(IO[bytes], WantedStream(file, self.require_wanted))


def _comes_of_leaving(error: BaseException | None) -> bool:
    """Whether a job failed because it was abandoned, whatever torch made of that."""
    while error is not None and not isinstance(error, Abandoned):
        error = error.__cause__ or error.__context__
    return error is not None


class WantedStream:
    """A file to be written for as long as somebody wants it."""

    def __init__(self, file: IO[bytes], require_wanted: Callable[[], None]) -> None:
        self._file = file
        self._require_wanted = require_wanted

    def write(self, data: Any) -> int:
        """Write a piece."""
        self._require_wanted()
        return self._file.write(data)

    def flush(self) -> None:
        """Write what the file has buffered."""
        self._file.flush()
