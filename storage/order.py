"""In which order the waiting requests are handed out.

The base model comes first, since everything is measured against it. Then come
the trials, the lowest rung first: its verdicts end the most trials for the
least training. A request without a rung counts by its examples. Where two are
level, the trial goes first that was served least recently.

A trial with a high rung would wait for ever while others begin anew below it,
or are scored densely. So a trial that has been passed over four times for
each trial that waits goes before all that have not: with n trials waiting,
none waits for more than 5 n others.

The test set comes last: nobody's training waits for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import sqlalchemy as sa

from storage.leases import live
from storage.schema import evaluation, trial

Order = Literal["oldest", "newest"]
"""Which of a trial's waiting checkpoints is scored first."""
PATIENCE = 4
"""How often a trial is passed over for each trial that waits."""
ENDED, BASE, TRIAL, TEST = range(4)
"""Kinds of requests in the order in which they are taken up."""


def waiting() -> sa.ColumnElement[bool]:
    """The request is to be handed out: open, or claimed by a worker that vanished."""
    vanished = sa.and_(evaluation.c.state == "claimed", ~live(evaluation))
    return sa.or_(evaluation.c.state == "open", vanished)


def of_ended_trial() -> sa.ColumnElement[bool]:
    """The request's trial has ended or is gone; test scores are asked for after that."""
    running = sa.exists().where(
        trial.c.study_id == evaluation.c.study_id,
        trial.c.number == evaluation.c.number,
        trial.c.state == "running",
    )
    return sa.and_(evaluation.c.number.is_not(None), ~evaluation.c.test, ~running)


def next_in_line(study_id: int, order: Order, *, besides: Collection[int] = ()) -> sa.CTE:
    """The request to take up next, its row locked: `id`, and whether its trial has `ended`.

    Those of ended trials come first, to be cancelled. With `besides` only
    requests of other trials than those count, on the validation set.
    """
    line = _line(study_id, order, besides)
    return (
        sa.select(evaluation.c.id, (line.c.kind == ENDED).label("ended"))
        .join(line, line.c.id == evaluation.c.id)
        # Once more, for a row that another worker changed after it was read.
        .where(waiting())
        .order_by(line.c.kind, *_turn(line, study_id), line.c.first)
        .order_by(line.c.step if order == "oldest" else line.c.step.desc(), line.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=evaluation)
        .cte("chosen")
    )


def _line(study_id: int, order: Order, besides: Collection[int]) -> sa.CTE:
    """The waiting requests, each with what its turn depends on."""
    place = sa.func.coalesce(evaluation.c.rung, evaluation.c.examples)
    # With the newest first, an old request holds its trial's place for it.
    level = place if order == "oldest" else _of_trial(place)
    statement = sa.select(
        evaluation.c.id,
        evaluation.c.number,
        evaluation.c.step,
        _kind().label("kind"),
        level.label("level"),
        _served().label("served"),
        _of_trial(evaluation.c.id).label("first"),
        _of_trial(evaluation.c.created_at).label("asked"),
    ).where(evaluation.c.study_id == study_id, waiting())
    if besides:
        others = evaluation.c.number.not_in(besides)
        statement = statement.where(others, ~evaluation.c.test)
    return statement.cte("line")


def _turn(line: sa.CTE, study_id: int) -> tuple[sa.ColumnElement[Any], ...]:
    """Among requests of one kind: the overdue, the lowest rung, the least recently served."""
    trials = sa.select(PATIENCE * sa.func.count(line.c.number.distinct())).scalar_subquery()
    claims = evaluation.alias("claims")
    patience_ends = (
        sa.select(claims.c.claimed_at)
        .where(claims.c.study_id == study_id, claims.c.claimed_at.is_not(None))
        .order_by(claims.c.claimed_at.desc())
        .offset(trials)
        .limit(1)
        .scalar_subquery()
    )
    since = sa.func.greatest(line.c.asked, line.c.served)
    overdue = sa.case((since < patience_ends, since))
    return overdue, line.c.level, line.c.served.nulls_first()


def _kind() -> sa.ColumnElement[int]:
    return sa.case(
        (of_ended_trial(), ENDED),
        (evaluation.c.test, TEST),
        (evaluation.c.number.is_(None), BASE),
        else_=TRIAL,
    )


def _of_trial(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The smallest value among the trial's waiting requests."""
    return sa.func.min(value).over(partition_by=(evaluation.c.test, evaluation.c.number))


def _served() -> sa.ScalarSelect[Any]:
    """When a request of the trial was handed out last."""
    own = evaluation.alias("own")
    return (
        sa.select(sa.func.max(own.c.claimed_at))
        .where(own.c.study_id == evaluation.c.study_id, own.c.number == evaluation.c.number)
        .where(~own.c.test)
        .correlate(evaluation)
        .scalar_subquery()
    )
