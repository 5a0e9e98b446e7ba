"""Asking for evaluations, and withdrawing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.listen import notify
from storage.records import EvaluationRecord, EvaluationRecords
from storage.schema import BASE_ONLY, evaluation
from storage.trials import TrialLease, lock_held

KEY = (evaluation.c.study_id, evaluation.c.number, evaluation.c.step, evaluation.c.test)
"""What a trial's evaluation is known by."""

# What a failed or cancelled request forgets when it is asked for again.
REOPENED: dict[str, Any] = {
    "state": "open",
    "attempts": 0,
    "worker_id": None,
    "lease_expires_at": None,
    "claimed_at": None,
    "finished_at": None,
    "error": None,
}


class EvaluationRequests(EvaluationRecords):
    """The evaluations of one study, as those see them who want the scores."""

    def put_base(self) -> None:
        """Ask for the base model's own evaluation; again only if it failed."""
        statement = (
            insert(evaluation)
            .values(study_id=self._study_id, step=0, examples=0)
            .on_conflict_do_update(
                index_elements=[evaluation.c.study_id, evaluation.c.test],
                index_where=BASE_ONLY,
                set_=REOPENED,
                where=evaluation.c.state == "failed",
            )
        )
        with self._engine.begin() as connection:
            connection.execute(statement)
            notify(connection, self._study_id)

    def put(
        self,
        lease: TrialLease,
        *,
        step: int,
        examples: int,
        rung: int | None,
        checkpoint: str,
    ) -> EvaluationRecord:
        """Ask for a checkpoint's evaluation; once per trial and step.

        A resumed attempt that reaches a step again gets the record that is
        there, except that a failed or cancelled one is opened again with the
        new checkpoint. Raises LeaseLost.
        """
        content = {"examples": examples, "rung": rung, "checkpoint": checkpoint}
        statement = (
            insert(evaluation)
            .values(
                study_id=lease.study_id,
                trial_id=lease.trial_id,
                number=lease.number,
                step=step,
                **content,
            )
            .on_conflict_do_update(
                index_elements=KEY,
                set_=REOPENED | content,
                where=evaluation.c.state.in_(("failed", "cancelled")),
            )
        )
        with self._engine.begin() as connection:
            lock_held(connection, lease)
            connection.execute(statement)
            notify(connection, self._study_id)
            return self._one(
                connection,
                evaluation.c.number == lease.number,
                evaluation.c.step == step,
                ~evaluation.c.test,
            )

    def put_base_test(self) -> None:
        """Ask for the base model's score on the test set, once."""
        self._put_test(index_elements=[evaluation.c.study_id, evaluation.c.test], where=BASE_ONLY)

    def put_trial_test(self, record: EvaluationRecord) -> None:
        """Ask for the test score of the checkpoint that was evaluated there, once."""
        content = {name: getattr(record, name) for name in ("trial_id", "number", "checkpoint")}
        self._put_test(index_elements=KEY, step=record.step, examples=record.examples, **content)

    def retry_tests(self) -> None:
        """Open the requests for the test set that failed again."""
        statement = (
            sa.update(evaluation)
            .where(self._mine, evaluation.c.test, evaluation.c.state == "failed")
            .values(REOPENED)
        )
        with self._engine.begin() as connection:
            if connection.execute(statement).rowcount:
                notify(connection, self._study_id)

    def cancel(self, number: int, *, after_step: int) -> int:
        """Withdraw a trial's open and claimed requests beyond a step; how many."""
        statement = (
            sa.update(evaluation)
            .where(self._mine, evaluation.c.number == number, evaluation.c.step > after_step)
            .where(~evaluation.c.test)
            .where(evaluation.c.state.in_(("open", "claimed")))
            .values(state="cancelled", finished_at=sa.func.clock_timestamp())
        )
        with self._engine.begin() as connection:
            count = connection.execute(statement).rowcount
            notify(connection, self._study_id)
        return count

    def _put_test(
        self,
        *,
        index_elements: Sequence[sa.Column[Any]],
        where: sa.ColumnElement[bool] | None = None,
        step: int = 0,
        examples: int = 0,
        **content: Any,
    ) -> None:
        statement = (
            insert(evaluation)
            .values(study_id=self._study_id, test=True, step=step, examples=examples, **content)
            .on_conflict_do_nothing(index_elements=index_elements, index_where=where)
        )
        with self._engine.begin() as connection:
            if connection.execute(statement).rowcount:
                notify(connection, self._study_id)
