"""The queue of checkpoints to score, and their results.

A claim is one statement over open requests and claimed ones whose lease ran
out. It hands out a fencing number; a result that comes with an old one, or
for a cancelled request, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row
from sqlalchemy.dialects.postgresql import insert

from storage.database import Database
from storage.errors import LeaseLost
from storage.leases import expiry, live
from storage.listen import notify
from storage.records import EvaluationRecord, EvaluationRecords, EvaluationRequest
from storage.schema import BASE_ONLY, evaluation
from storage.trials import TrialLease, lock_held

KEY = (evaluation.c.study_id, evaluation.c.number, evaluation.c.step, evaluation.c.test)
"""What a trial's evaluation is known by."""
FIELDS = tuple(EvaluationRequest.__dataclass_fields__)

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
LET_GO: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}


class EvaluationQueue(EvaluationRecords):
    """The evaluations of one study.

    `seconds` is how long a claim lasts without renewal, `max_attempts` how
    many workers may fail or be lost over one request.
    """

    def __init__(
        self, database: Database, study_id: int, *, seconds: float, max_attempts: int = 3
    ) -> None:
        super().__init__(database, study_id)
        self._seconds = seconds
        self._max_attempts = max_attempts

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

    def claim(self, worker_id: str) -> EvaluationRequest | None:
        """Take a request: the base model first, then the oldest. None when there is none.

        A request whose attempts are used up, because its workers vanished, is
        failed instead of being handed out for ever.
        """
        while (row := self._claim(worker_id)) is not None:
            if row.state == "claimed":
                return EvaluationRequest(**{name: row._mapping[name] for name in FIELDS})
        return None

    def renew(self, request: EvaluationRequest) -> None:
        """Hold on for another period. Raises LeaseLost."""
        with self._engine.begin() as connection:
            if not self._change(connection, request, lease_expires_at=expiry(self._seconds)):
                raise _lost(request)

    def complete(
        self, request: EvaluationRequest, result: dict[str, Any], report: Callable[[], bool]
    ) -> None:
        """Store a result; `report` writes to Optuna and tells whether it did.

        Nobody else can take the request while `report` runs; when it raises,
        nothing is stored. Completing twice under the same number does nothing
        the second time. `result` is JSON without NaN or infinity (ValueError).
        Raises LeaseLost when the number is old or the request was cancelled;
        a cancelled one's checkpoint is then no longer pinned for it.
        """
        with self._engine.begin() as connection:
            state = self._lock(connection, request)
            if state == "claimed":
                self._store(connection, request, result, reported=report())
            elif state == "cancelled":
                self._let_go(connection, request)
        if state not in ("claimed", "done"):
            raise _lost(request)

    def fail(self, request: EvaluationRequest, error: str, *, retry: bool) -> None:
        """Give a request up: to be tried again while attempts are left, or for good.

        Without effect, except for the pin of a cancelled one, when the request
        is no longer the caller's.
        """
        again = retry and request.attempts < self._max_attempts
        ending = {"state": "open"} if again else self._ending("failed")
        self._give_up(request, {**ending, "error": error})

    def release(self, request: EvaluationRequest) -> None:
        """Hand a request back untried: it is open at once and the attempt is not counted.

        Without effect, except for the pin of a cancelled one, when the request
        is no longer the caller's.
        """
        self._give_up(request, {"state": "open", "attempts": evaluation.c.attempts - 1})

    def cancel(self, number: int, *, after_step: int) -> int:
        """Withdraw a trial's open and claimed requests beyond a step; how many."""
        statement = (
            sa.update(evaluation)
            .where(self._mine, evaluation.c.number == number, evaluation.c.step > after_step)
            .where(~evaluation.c.test)
            .where(evaluation.c.state.in_(("open", "claimed")))
            .values(self._ending("cancelled"))
        )
        with self._engine.begin() as connection:
            count = connection.execute(statement).rowcount
            notify(connection, self._study_id)
        return count

    def _claim(self, worker_id: str) -> Row[Any] | None:
        vanished = sa.and_(evaluation.c.state == "claimed", ~live(evaluation))
        next_id = (
            sa.select(evaluation.c.id)
            .where(self._mine, sa.or_(evaluation.c.state == "open", vanished))
            .order_by(evaluation.c.number.is_not(None), evaluation.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        used_up = evaluation.c.attempts >= self._max_attempts
        now = sa.func.clock_timestamp()
        lost = f"lost {self._max_attempts} evaluation workers"
        statement = (
            sa.update(evaluation)
            .where(evaluation.c.id == next_id)
            .values(
                state=sa.case((used_up, "failed"), else_="claimed"),
                fence=evaluation.c.fence + 1,
                attempts=evaluation.c.attempts + sa.case((used_up, 0), else_=1),
                worker_id=sa.case((~used_up, worker_id)),
                lease_expires_at=sa.case((~used_up, expiry(self._seconds))),
                claimed_at=sa.case((used_up, evaluation.c.claimed_at), else_=now),
                finished_at=sa.case((used_up, now)),
                error=sa.case((used_up, lost), else_=evaluation.c.error),
            )
            .returning(evaluation)
        )
        with self._engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
            if row is not None and row.state == "failed":
                notify(connection, self._study_id)
        return row

    def _lock(self, connection: Connection, request: EvaluationRequest) -> str | None:
        """State of the request if the fencing number is the current one."""
        statement = sa.select(evaluation.c.state).where(_numbered(request)).with_for_update()
        return connection.scalar(statement)

    def _store(
        self,
        connection: Connection,
        request: EvaluationRequest,
        result: dict[str, Any],
        *,
        reported: bool,
    ) -> None:
        values = {**self._ending("done"), **LET_GO, "result": result, "reported": reported}
        self._change(connection, request, **values, error=None)
        notify(connection, self._study_id)

    def _give_up(self, request: EvaluationRequest, values: dict[str, Any]) -> None:
        with self._engine.begin() as connection:
            if not self._change(connection, request, **values, **LET_GO):
                self._let_go(connection, request)
            notify(connection, self._study_id)

    def _change(self, connection: Connection, request: EvaluationRequest, **values: Any) -> bool:
        """Change a claimed request; whether it is still the caller's."""
        statement = sa.update(evaluation).where(_numbered(request), evaluation.c.state == "claimed")
        return connection.execute(statement.values(**values)).rowcount == 1

    def _let_go(self, connection: Connection, request: EvaluationRequest) -> None:
        """Unpin the checkpoint of a cancelled request."""
        statement = sa.update(evaluation).where(
            _numbered(request), evaluation.c.state == "cancelled"
        )
        connection.execute(statement.values(LET_GO))

    @staticmethod
    def _ending(state: str) -> dict[str, Any]:
        return {"state": state, "finished_at": sa.func.clock_timestamp()}


def _numbered(request: EvaluationRequest) -> sa.ColumnElement[bool]:
    return sa.and_(evaluation.c.id == request.id, evaluation.c.fence == request.fence)


def _lost(request: EvaluationRequest) -> LeaseLost:
    who = "the base model" if request.number is None else f"trial {request.number}"
    return LeaseLost(f"the evaluation of {who} at step {request.step} was cancelled or taken over")
