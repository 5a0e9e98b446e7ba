"""The first tables: studies, trials with their attempts, evaluations, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "hpo"


def upgrade() -> None:
    create_study()
    create_trial()
    create_attempt()
    create_evaluation()
    create_worker()


def downgrade() -> None:
    for table in ("worker", "evaluation", "attempt", "trial", "study"):
        op.drop_table(table, schema=SCHEMA)


def create_study() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("checkpoints", sa.Text(), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("name", name=op.f("uq_study_name")),
        schema=SCHEMA,
    )


def create_trial() -> None:
    op.create_table(
        "trial",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("worker_id", sa.Text()),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("fence", sa.Integer(), server_default="1", nullable=False),
        sa.Column("state_address", sa.Text()),
        sa.Column("state_step", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "(state = 'finished') = (outcome IS NOT NULL)", name=op.f("ck_trial_outcome")
        ),
        sa.CheckConstraint("state IN ('running', 'finished')", name=op.f("ck_trial_state")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo.study.id"], name=op.f("fk_trial_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_trial_study_id_number")),
        sa.UniqueConstraint("trial_id", name=op.f("uq_trial_trial_id")),
        schema=SCHEMA,
    )


def create_attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("trial_row_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.ForeignKeyConstraint(
            ["trial_row_id"],
            ["hpo.trial.id"],
            name=op.f("fk_attempt_trial_row_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("trial_row_id", "fence", name=op.f("pk_attempt")),
        schema=SCHEMA,
    )


def create_evaluation() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", sa.BigInteger()),
        sa.Column("number", sa.Integer()),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("examples", sa.BigInteger(), nullable=False),
        sa.Column("rung", sa.BigInteger()),
        sa.Column("checkpoint", sa.Text()),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker_id", sa.Text()),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("claimed_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("result", JSONB()),
        sa.Column("reported", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint(
            "state IN ('open', 'claimed', 'done', 'failed', 'cancelled')",
            name=op.f("ck_evaluation_state"),
        ),
        sa.CheckConstraint(
            "(trial_id IS NULL) = (number IS NULL)", name=op.f("ck_evaluation_base")
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo.study.id"], name=op.f("fk_evaluation_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
        sa.UniqueConstraint(
            "study_id", "number", "step", name=op.f("uq_evaluation_study_id_number_step")
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_evaluation_claimable",
        "evaluation",
        ["study_id", "id"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('open', 'claimed')"),
    )
    op.create_index(
        "uq_evaluation_base",
        "evaluation",
        ["study_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("number IS NULL"),
    )


def create_worker() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("phase", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("kind IN ('trial', 'evaluation')", name=op.f("ck_worker_kind")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo.study.id"], name=op.f("fk_worker_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
        schema=SCHEMA,
    )
