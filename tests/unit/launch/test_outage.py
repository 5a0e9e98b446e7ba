from __future__ import annotations

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

from hpo.launch import outage
from hpo.launch.outage import Outage, is_away, reason, unless_away
from hpo.spec.errors import DatabaseError, InputError
from storage.database import Database

NOBODY_LISTENS = "postgresql://me@127.0.0.1:1/hpo"


def refusal() -> Exception:
    engine = sa.create_engine("postgresql+psycopg2://me@127.0.0.1:1/hpo")
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    return caught.value


def wrapped(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


def test_a_server_that_is_not_there_is_away() -> None:
    assert is_away(refusal())
    assert is_away(wrapped(StorageInternalError("an exception is raised"), refusal()))
    with pytest.raises(DatabaseError) as caught:
        Database.open(NOBODY_LISTENS)
    assert is_away(caught.value)


def test_a_mistake_is_no_outage() -> None:
    assert not is_away(InputError("no such file"))
    assert not is_away(StorageInternalError("invalid data"))
    assert not is_away(DBAPIError("select", None, ValueError("syntax error")))
    with pytest.raises(DatabaseError) as caught:
        Database.open("sqlite:///file")
    assert not is_away(caught.value)


def test_the_reason_is_one_line_without_a_password() -> None:
    said = reason(wrapped(StorageInternalError("an exception is raised"), refusal()))
    assert "127.0.0.1" in said
    assert "\n" not in said
    assert "an exception" not in said


def test_only_an_outage_is_passed_over() -> None:
    with unless_away():
        raise refusal()
    with pytest.raises(InputError), unless_away():
        raise InputError("no such file")


def test_an_outage_is_noted_once_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    waiting = Outage(notes.append)
    waiting.over()
    for _ in range(3):
        waiting.found(refusal())
    waiting.over()
    assert len(notes) == 2
    assert notes[0].startswith("the database is away: connection to server at")
    assert notes[1] == "the database is back"

    monkeypatch.setattr(outage, "LONGEST_OUTAGE_SECONDS", 0.0)
    waiting.found(refusal())
    with pytest.raises(DatabaseError, match="has been away for 0 minutes: connection"):
        waiting.found(refusal())
