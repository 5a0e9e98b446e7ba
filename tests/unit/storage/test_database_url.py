from __future__ import annotations

import pytest

from hpo.spec.errors import DatabaseError
from storage.database import Database, mask


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:secret@host:5432/hpo", "postgresql://me:***@host:5432/hpo"),
        ("postgres://me@host/hpo", "postgres://me@host/hpo"),
        (
            "postgresql://host/hpo?user=me&password=secret",
            "postgresql://host/hpo?user=me&password=***",
        ),
        ("postgresql://me:se@cr:et@host/hpo", "postgresql://me:***@host/hpo"),
        ("postgresql://me:secret@host:port/hpo", "postgresql://me:***@host:port/hpo"),
        ("postgresql://me:sec/ret@host/hpo", "postgresql://me:***@host/hpo"),
        (
            "postgresql://host/hpo?sslpassword=secret&x=1",
            "postgresql://host/hpo?sslpassword=***&x=1",
        ),
    ],
)
def test_a_password_is_masked(url: str, masked: str) -> None:
    assert mask(url) == masked


@pytest.mark.parametrize(
    "url", ["sqlite:///study.db", "mysql://me:secret@host/hpo", "postgresql+asyncpg://host/hpo"]
)
def test_only_postgres_is_accepted(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"is not a Postgres.*allowed: postgresql://") as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "study", "postgresql://me:secret@host:port/hpo"])
def test_a_malformed_url_is_one_clear_line(url: str) -> None:
    with pytest.raises(DatabaseError, match="is malformed; allowed: postgresql://") as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
