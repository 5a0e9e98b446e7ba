"""What can end a trial, each kind told in its own way.

    TrialFailure
    ├── Diverged        loss or gradient is no longer finite
    ├── DoesNotFit      out of memory at the smallest micro-batch
    └── InvalidTrial    this configuration cannot be trained on this model

`StateOfAnotherRun` ends nothing: the trial starts anew. `BaseModelChanged` is
about the worker, not the trial: its model can no longer be trusted and the
worker starts afresh.
"""

from __future__ import annotations


class TrialFailure(Exception):
    """A trial cannot go on; the study does."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class Diverged(TrialFailure):
    """Loss or gradient is no longer finite."""


class DoesNotFit(TrialFailure):
    """One example at a time is too much for the device's memory."""


class InvalidTrial(TrialFailure):
    """This configuration cannot be trained on this model or data."""


class StateOfAnotherRun(Exception):
    """A saved training state does not fit the configuration, the data or this version."""


class BaseModelChanged(Exception):
    """The base model differs from the one that was loaded."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)
