"""Graded answers with the items they answer; what the order of the queue is read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "hpo"


def upgrade() -> None:
    _create_claims_index("ix_evaluation_claims", ["study_id", "claimed_at"])
    _create_claims_index("ix_evaluation_claims_of_trial", ["study_id", "number", "claimed_at"])
    create_evaluation_answers()
    create_evaluation_set()


def downgrade() -> None:
    for table in ("evaluation_set", "evaluation_answers"):
        op.drop_table(table, schema=SCHEMA)
    for index in ("ix_evaluation_claims_of_trial", "ix_evaluation_claims"):
        op.drop_index(index, "evaluation", schema=SCHEMA)


def _create_claims_index(name: str, columns: list[str]) -> None:
    op.create_index(
        name,
        "evaluation",
        columns,
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("claimed_at IS NOT NULL"),
    )


def create_evaluation_answers() -> None:
    op.create_table(
        "evaluation_answers",
        sa.Column("evaluation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["hpo.evaluation.id"],
            name=op.f("fk_evaluation_answers_evaluation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("pk_evaluation_answers")),
        schema=SCHEMA,
    )


def create_evaluation_set() -> None:
    op.create_table(
        "evaluation_set",
        sa.Column("study_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("test", sa.Boolean(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("items", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["hpo.study.id"],
            name=op.f("fk_evaluation_set_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("study_id", "test", name=op.f("pk_evaluation_set")),
        schema=SCHEMA,
    )
