"""Which checkpoints stay on disk."""

from __future__ import annotations

from workers.session import StudySession
from workers.trial.evaluations import Evaluations, trial_folder


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
    # In this order: what is read later may only spare more of what was listed.
    folders = session.checkpoints.folders()
    ended = {trial_folder(row.number) for row in session.trials.rows() if row.state == "finished"}
    keep = session.queue.pinned()
    best = session.search.best_checkpoint()
    if best is not None:
        keep = keep | {best}
    for folder in folders:
        if folder in ended:
            kept = [address for address in keep if address.startswith(f"{folder}/")]
            session.checkpoints.keep_only(folder, kept)
