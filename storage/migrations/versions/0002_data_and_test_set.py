"""What became of a study's data; evaluations on a test set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "hpo"
BASE_ONLY = sa.text("number IS NULL")


def upgrade() -> None:
    op.add_column("study", sa.Column("data", sa.JSON()), schema=SCHEMA)
    op.add_column(
        "evaluation",
        sa.Column("test", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema=SCHEMA,
    )
    _make_unique("uq_evaluation_study_id_number_step", ["test"])


def downgrade() -> None:
    op.execute(sa.text(f"DELETE FROM {SCHEMA}.evaluation WHERE test"))
    _make_unique("uq_evaluation_study_id_number_step_test", [])
    op.drop_column("evaluation", "test", schema=SCHEMA)
    op.drop_column("study", "data", schema=SCHEMA)


def _make_unique(before: str, more: list[str]) -> None:
    """A trial's step, and the base model, are asked for once; with `more`, once each."""
    op.drop_constraint(before, "evaluation", schema=SCHEMA, type_="unique")
    columns = ["study_id", "number", "step", *more]
    op.create_unique_constraint(
        f"uq_evaluation_{'_'.join(columns)}", "evaluation", columns, schema=SCHEMA
    )
    op.drop_index("uq_evaluation_base", "evaluation", schema=SCHEMA)
    op.create_index(
        "uq_evaluation_base",
        "evaluation",
        ["study_id", *more],
        unique=True,
        schema=SCHEMA,
        postgresql_where=BASE_ONLY,
    )
