"""Early stopping as a function of the stored results."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.spec.study import EarlyStopping


def plateau(values: Sequence[float], rule: EarlyStopping) -> int | None:
    """Index of the evaluation that ends the trial, or None.

    An evaluation improves if it is better by more than `min_delta` than the
    one that improved last, the first one to begin with, so that steady small
    steps add up; `patience` evaluations in a row that do not improve end the
    trial. Nothing but the values counts: a resumed trial stops where an
    uninterrupted one does.
    """
    sign = -1.0 if rule.metric == "accuracy" else 1.0
    best: float | None = None
    waited = 0
    for index, value in enumerate(values):
        if best is None or best - sign * value > rule.min_delta:
            best, waited = sign * value, 0
            continue
        waited += 1
        if waited >= rule.patience:
            return index
    return None
