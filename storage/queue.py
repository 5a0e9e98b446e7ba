"""The queue of checkpoints to score: claimed, answered, given up.

A claim is one statement over open requests and claimed ones whose lease ran
out. It hands out a fencing number; a result that comes with an old one, or
for a cancelled request, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from storage.answers import keep_answers
from storage.database import Database
from storage.errors import LeaseLost
from storage.leases import expiry
from storage.listen import notify
from storage.order import Order, next_in_line
from storage.records import EvaluationRequest
from storage.requests import EvaluationRequests
from storage.schema import evaluation

FIELDS = tuple(EvaluationRequest.__dataclass_fields__)
LET_GO: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}


class EvaluationQueue(EvaluationRequests):
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

    def claim(self, worker_id: str, *, order: Order = "oldest") -> EvaluationRequest | None:
        """Take the request that is next in line (see `storage.order`); None when there is none.

        A request of a trial that has ended is cancelled on the way. One whose
        attempts are used up, because its workers vanished, is failed instead
        of being handed out for ever.
        """
        return self._take(worker_id, next_in_line(self._study_id, order))

    def claim_more(
        self, worker_id: str, request: EvaluationRequest, most: int, *, order: Order = "oldest"
    ) -> list[EvaluationRequest]:
        """Take what may be scored together with a trial's request: at most `most` others.

        They are next in line, each of another trial, and none asks for the
        base model or the test set. Empty for a request that does so itself.
        """
        if request.number is None or request.test:
            return []
        taken: list[EvaluationRequest] = []
        trials = {request.number}
        while len(taken) < most:
            more = self._take(worker_id, next_in_line(self._study_id, order, besides=trials))
            if more is None or more.number is None:
                break
            taken.append(more)
            trials.add(more.number)
        return taken

    def renew(self, request: EvaluationRequest) -> None:
        """Hold on for another period. Raises LeaseLost."""
        with self._engine.begin() as connection:
            if not self._change(connection, request, lease_expires_at=expiry(self._seconds)):
                raise _lost(request)

    def complete(
        self,
        request: EvaluationRequest,
        result: dict[str, Any],
        report: Callable[[], bool],
        answers: bytes | None = None,
    ) -> None:
        """Store a result; `report` writes to Optuna and tells whether it did.

        Nobody else can take the request while `report` runs; when it raises,
        nothing is stored. Completing twice under the same number does nothing
        the second time. `result` is JSON without NaN or infinity (ValueError);
        characters that Postgres cannot store are replaced in it. `answers` are
        the graded answers, compressed, stored along with it.
        Raises LeaseLost when the number is old or the request was cancelled;
        a cancelled one's checkpoint is then no longer pinned for it.
        """
        with self._engine.begin() as connection:
            state = self._lock(connection, request)
            if state == "claimed":
                self._store(connection, request, result, reported=report())
                if answers is not None:
                    keep_answers(connection, request.id, answers)
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
        ending = {"state": "open"} if again else _ending("failed")
        self._give_up(request, {**ending, "error": error})

    def release(self, request: EvaluationRequest) -> None:
        """Hand a request back untried: it is open at once, as if it had not been claimed.

        Without effect, except for the pin of a cancelled one, when the request
        is no longer the caller's.
        """
        untried = {"state": "open", "attempts": evaluation.c.attempts - 1, "claimed_at": None}
        self._give_up(request, untried)

    def _take(self, worker_id: str, chosen: sa.CTE) -> EvaluationRequest | None:
        """Claim the chosen request; one that must not be handed out is closed and passed over."""
        statement = self._claim(worker_id, chosen)
        while (row := self._claimed(statement)) is not None:
            if row.state == "claimed":
                return EvaluationRequest(**{name: row._mapping[name] for name in FIELDS})
        return None

    def _claimed(self, statement: sa.Executable) -> Row[Any] | None:
        with self._engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
            if row is not None and row.state != "claimed":
                notify(connection, self._study_id)
        return row

    def _claim(self, worker_id: str, chosen: sa.CTE) -> sa.Executable:
        ended = chosen.c.ended
        used_up = evaluation.c.attempts >= self._max_attempts
        handed_out = sa.and_(~ended, ~used_up)
        now = sa.func.clock_timestamp()
        lost = f"lost {self._max_attempts} evaluation workers"
        return (
            sa.update(evaluation)
            .where(evaluation.c.id == chosen.c.id)
            .values(
                state=sa.case((ended, "cancelled"), (used_up, "failed"), else_="claimed"),
                fence=evaluation.c.fence + 1,
                attempts=evaluation.c.attempts + sa.case((handed_out, 1), else_=0),
                worker_id=sa.case((handed_out, worker_id)),
                lease_expires_at=sa.case((handed_out, expiry(self._seconds))),
                claimed_at=sa.case((handed_out, now), else_=evaluation.c.claimed_at),
                finished_at=sa.case((~handed_out, now)),
                error=sa.case((sa.and_(~ended, used_up), lost), else_=evaluation.c.error),
            )
            .returning(evaluation)
        )

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
        values = {**_ending("done"), **LET_GO, "result": _storable(result), "reported": reported}
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


def _ending(state: str) -> dict[str, Any]:
    return {"state": state, "finished_at": sa.func.clock_timestamp()}


def _storable(value: Any) -> Any:
    """JSON without what JSONB refuses, such as a model may write: NUL and half surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_storable(key): _storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value


def _numbered(request: EvaluationRequest) -> sa.ColumnElement[bool]:
    return sa.and_(evaluation.c.id == request.id, evaluation.c.fence == request.fence)


def _lost(request: EvaluationRequest) -> LeaseLost:
    who = "the base model" if request.number is None else f"trial {request.number}"
    return LeaseLost(f"the evaluation of {who} at step {request.step} was cancelled or taken over")
