"""Faults of the surroundings, for which no trial is to blame."""

from __future__ import annotations

import torch
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError


def is_environment_fault(error: BaseException) -> bool:
    """Whether disk, database or device failed, rather than the trial.

    Such a fault ends the process, and the trial is continued by a new one: a
    CUDA error stays with its process, and a full disk fails every trial.
    """
    if isinstance(error, OSError | DBAPIError | StorageInternalError):
        return True
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
