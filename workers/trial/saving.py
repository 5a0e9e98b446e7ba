"""Checkpoints and training states, written while training goes on.

Training stands still while the weights are written as they are served, into
the page cache, and while the state is copied in host memory. Hashes, flushing
to the disk, the state's file and the database are left to a thread.

One job follows another, so the order of what becomes visible is that of the
training: a request is put after its checkpoint was published, and a state of
a step is recorded after the requests of all earlier steps. An attempt that
resumes from a state therefore misses no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from storage.checkpoints import Draft, Kind
from storage.trials import TrialLease
from workers.session import StudySession
from workers.trial.background import Background
from workers.trial.evaluations import Evaluations, checkpoint_address, state_address
from workers.trial.loop.run import STATE_FILE, TrainingRun
from workers.trial.model.attached import AttachedModel
from workers.trial.retention import DiskBudget

OVERHEAD = (1 << 16, 512)
"""Bytes that a file takes besides its tensors: in all, and for each of them."""


class NotWritten(OSError):
    """A checkpoint or a training state could not be written; no trial is to blame."""


@dataclass(frozen=True)
class _Moment:
    """What is saved of a run as it stood after one step."""

    kind: Kind
    step: int
    examples: int
    rung: int | None
    checkpoint: Draft | None
    """Weights to be scored, written but not published."""
    state: dict[str, Any] | None
    """Copies, which training does not touch."""


@dataclass
class Saver:
    """Saves one attempt's checkpoints and states in the background."""

    session: StudySession
    lease: TrialLease
    run: TrainingRun
    evaluations: Evaluations
    background: Background
    checkpoint_bytes: int
    """About what the run's checkpoints take."""
    state_address: str | None
    """The state that the trial resumes from."""
    state_step: int
    """The step of that state."""
    _asking: bool = False

    @property
    def asking(self) -> bool:
        """Whether a request is on its way that the queue does not show yet."""
        return self._asking

    def save(self, *, evaluate: bool, rung: int | None, state: bool) -> None:
        """Save the run as it stands; `evaluate` has its weights scored.

        Waits for what is still being written. Raises what went wrong there,
        and DiskBudgetExceeded.
        """
        self.background.wait()
        evaluate = evaluate and self.evaluations.wanted(self.run.step)
        state = state and self.state_step != self.run.step
        if not (evaluate or state):
            return
        moment = _Moment(
            self.run.kind,
            self.run.step,
            self.run.examples_seen,
            rung,
            self._checkpoint() if evaluate else None,
            self.run.state() if state else None,
        )
        self._asking = evaluate
        self.background.begin(lambda: self._write(moment))

    def _checkpoint(self) -> Draft:
        """The run's weights as they are served, written but not published."""
        address = checkpoint_address(self.lease, self.run.step)
        draft = DiskBudget(self.session).draft(address, self.checkpoint_bytes)
        try:
            self.run.save_checkpoint(draft.directory)
        except SafetensorError as error:
            draft.discard()
            raise self._not_written(address, error) from error
        except BaseException:
            draft.discard()
            raise
        return draft

    def _write(self, moment: _Moment) -> None:
        try:
            if moment.checkpoint is not None:
                self._publish(moment.checkpoint, moment)
                self.evaluations.ask(moment.step, moment.examples, moment.rung)
        finally:
            self._asking = False
        if moment.state is not None:
            self._write_state(moment, moment.state)

    def _write_state(self, moment: _Moment, state: dict[str, Any]) -> None:
        self.background.require_wanted()
        address = state_address(self.lease, moment.step)
        draft = DiskBudget(self.session).draft(address, size_of(tensors_of(state)))
        try:
            self._fill(draft.directory / STATE_FILE, state)
        except BaseException:
            draft.discard()
            raise
        self._publish(draft, moment)
        self.session.trials.save_state(self.lease, address, moment.step)
        if self.state_address is not None:
            self.session.checkpoints.delete(self.state_address)
        self.state_address, self.state_step = address, moment.step

    def _fill(self, file: Path, state: dict[str, Any]) -> None:
        # Through a stream of Python's: written to a path, torch holds the
        # interpreter's lock for as long as the disk takes, and training waits.
        with file.open("wb") as stream:
            try:
                torch.save(state, self.background.stream(stream))
            except (OSError, RuntimeError) as error:
                # Torch may tell where it stood; what the disk said lies below then.
                raise self._not_written(file, _disk_error(error) or error) from error

    def _not_written(self, name: object, reason: object) -> NotWritten:
        return NotWritten(
            f"{name}: {reason}; make room in {self.session.checkpoints.root}, then run the study "
            "again: it goes on where it was"
        )

    def _publish(self, draft: Draft, moment: _Moment) -> None:
        try:
            self.background.require_wanted()
            draft.publish(kind=moment.kind, step=moment.step, examples=moment.examples)
        except BaseException:
            draft.discard()
            raise


def _disk_error(error: BaseException) -> str | None:
    """What the system said, if that is what an error comes from."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    below = error.__cause__ or error.__context__
    return None if below is None else _disk_error(below)


def checkpoint_bytes(attached: AttachedModel) -> int:
    """About what a checkpoint of this model or adapter takes on disk."""
    whole = attached.kind == "full"
    weights = attached.plain.parameters() if whole else (p for _, p in attached.trainable)
    return size_of(weights, attached.served_dtype.itemsize)


def size_of(tensors: Iterable[torch.Tensor], itemsize: int | None = None) -> int:
    """Bytes of a file with these tensors, in elements of `itemsize` or of their own."""
    sizes = [tensor.numel() * (itemsize or tensor.itemsize) for tensor in tensors]
    return sum(sizes) + OVERHEAD[0] + OVERHEAD[1] * len(sizes)


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in a nest of collections."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors_of(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors_of(value)
