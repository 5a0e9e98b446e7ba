"""Which checkpoints stay on disk."""

from __future__ import annotations

from workers.session import StudySession
from workers.trial.evaluations import Evaluations


def thin_out(session: StudySession, evaluations: Evaluations) -> None:
    """Delete a running trial's evaluated checkpoints, its best one apart."""
    if session.spec.checkpoints.keep == "all":
        return
    best = evaluations.best()
    needed = session.queue.pinned()
    if best is not None and best.checkpoint is not None:
        needed = needed | {best.checkpoint}
    for point in evaluations.points():
        if point.checkpoint is not None and point.checkpoint not in needed:
            session.checkpoints.delete(point.checkpoint)


def clean_up(session: StudySession) -> None:
    """Delete what no trial needs any more.

    Left are the checkpoint of the study's best trial, those that requests pin
    and everything of trials that still run.
    """
    if session.spec.checkpoints.keep == "all":
        return
    keep = session.queue.pinned() | {session.search.best_checkpoint()}
    running = {f"trial-{row.number:05d}" for row in session.trials.rows() if row.state == "running"}
    for address in session.checkpoints.addresses():
        if address not in keep and address.split("/")[0] not in running:
            session.checkpoints.delete(address)
