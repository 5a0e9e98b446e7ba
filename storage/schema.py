"""Our tables, in the Postgres schema `hpo` beside Optuna's tables.

Study and trial identifiers are Optuna's. There is no foreign key into
Optuna's tables, because Optuna creates and deletes those on its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "hpo"

metadata = sa.MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    },
)

NOW = sa.text("now()")
INSTANT = sa.DateTime(timezone=True)


def _study_key() -> sa.ForeignKey:
    return sa.ForeignKey(f"{SCHEMA}.study.id", ondelete="CASCADE")


study = sa.Table(
    "study",
    metadata,
    # Optuna's study id.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    # As text: JSONB would reorder the keys and write 1e30 as a whole number.
    sa.Column("spec", sa.JSON, nullable=False),
    # The part of the specification that may not change.
    sa.Column("identity", sa.JSON, nullable=False),
    # Root folder of the checkpoint store.
    sa.Column("checkpoints", sa.Text, nullable=False),
    # What became of its data, by whoever prepared it first; null until then.
    sa.Column("data", sa.JSON(none_as_null=True)),
    sa.Column("stop_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
)

# A row is a budget slot and the trial that fills it.
#
#   running, held      worker_id set, lease_expires_at ahead: that worker trains it
#       -> running, claimable   released (both null) or the lease ran out
#       -> finished             the holder told the outcome
#   running, claimable
#       -> running, held        acquired again: fence + 1, a new attempt row
#   finished           final
trial = sa.Table(
    "trial",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("study_id", sa.BigInteger, _study_key(), nullable=False),
    # Optuna's trial id.
    sa.Column("trial_id", sa.BigInteger, nullable=False, unique=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="running"),
    sa.Column("worker_id", sa.Text),
    sa.Column("lease_expires_at", INSTANT),
    # The fencing number; also the ordinal of the current attempt, from 1.
    sa.Column("fence", sa.Integer, nullable=False, server_default="1"),
    # Checkpoint address of the training state that the next attempt resumes from.
    sa.Column("state_address", sa.Text),
    sa.Column("state_step", sa.BigInteger, nullable=False, server_default="0"),
    # complete | pruned | diverged | does_not_fit | invalid | lost | bug | ...
    sa.Column("outcome", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
    sa.Column("finished_at", INSTANT),
    sa.UniqueConstraint("study_id", "number"),
    sa.CheckConstraint("state IN ('running', 'finished')", name="state"),
    sa.CheckConstraint("(state = 'finished') = (outcome IS NOT NULL)", name="outcome"),
)

# One worker's hold on a trial. Open (ended_at null) -> finished | suspended | lost | failed.
attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column(
        "trial_row_id",
        sa.BigInteger,
        sa.ForeignKey(f"{SCHEMA}.trial.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("fence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker_id", sa.Text, nullable=False),
    sa.Column("started_at", INSTANT, nullable=False, server_default=NOW),
    sa.Column("ended_at", INSTANT),
    sa.Column("outcome", sa.Text),
    sa.Column("message", sa.Text),
)

# A request to score one checkpoint, and its result.
#
#   open      -> claimed    a worker took it: fence + 1, attempts + 1
#             -> cancelled  the trial was pruned or stopped before this step, or has ended
#   claimed   -> done       the result was stored
#             -> open       released, or failed in a way worth another attempt
#             -> claimed    the lease ran out: another worker, fence + 1, attempts + 1
#             -> failed     failed for good, or the attempts are used up
#             -> cancelled  as above; the claimer keeps the checkpoint pinned until it
#                           lets go (worker_id and lease null) or its lease runs out
#   failed, cancelled -> open   a resumed attempt asks for the same step again
#   done      final
evaluation = sa.Table(
    "evaluation",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("study_id", sa.BigInteger, _study_key(), nullable=False),
    # Optuna's trial id and the trial's number; both null for the base model itself.
    sa.Column("trial_id", sa.BigInteger),
    sa.Column("number", sa.Integer),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("examples", sa.BigInteger, nullable=False),
    # Nominal examples of the rung that this evaluation decides, if it does.
    sa.Column("rung", sa.BigInteger),
    # Whether it is on the test set, for the base model and the winner.
    sa.Column("test", sa.Boolean, nullable=False, server_default=sa.text("false")),
    # Address in the checkpoint store; null for the base model.
    sa.Column("checkpoint", sa.Text),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker_id", sa.Text),
    sa.Column("lease_expires_at", INSTANT),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
    sa.Column("claimed_at", INSTANT),
    sa.Column("finished_at", INSTANT),
    sa.Column("result", JSONB(none_as_null=True)),
    # Whether the value went to Optuna as an intermediate value.
    sa.Column("reported", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("study_id", "number", "step", "test"),
    sa.CheckConstraint("state IN ('open', 'claimed', 'done', 'failed', 'cancelled')", name="state"),
    sa.CheckConstraint("(trial_id IS NULL) = (number IS NULL)", name="base"),
)

# The unique constraint treats nulls as distinct, so the base model needs its own.
BASE_ONLY = evaluation.c.number.is_(None)
base_evaluation = sa.Index(
    "uq_evaluation_base",
    evaluation.c.study_id,
    evaluation.c.test,
    unique=True,
    postgresql_where=BASE_ONLY,
)

claimable_evaluation = sa.Index(
    "ix_evaluation_claimable",
    evaluation.c.study_id,
    evaluation.c.id,
    postgresql_where=evaluation.c.state.in_(
        [sa.literal_column("'open'"), sa.literal_column("'claimed'")]
    ),
)

# For the order of the queue: a trial's last claim, and how many claims there were since then.
_CLAIMED = evaluation.c.claimed_at.is_not(None)
claims = sa.Index(
    "ix_evaluation_claims",
    evaluation.c.study_id,
    evaluation.c.claimed_at,
    postgresql_where=_CLAIMED,
)
claims_of_trial = sa.Index(
    "ix_evaluation_claims_of_trial",
    evaluation.c.study_id,
    evaluation.c.number,
    evaluation.c.claimed_at,
    postgresql_where=_CLAIMED,
)

# Graded answers of a done evaluation that has any, written along with its result.
evaluation_answers = sa.Table(
    "evaluation_answers",
    metadata,
    sa.Column(
        "evaluation_id",
        sa.BigInteger,
        sa.ForeignKey(f"{SCHEMA}.evaluation.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    # As the evaluation worker packed it.
    sa.Column("content", sa.LargeBinary, nullable=False),
)

# The items that a study's answers are given to, stored once.
evaluation_set = sa.Table(
    "evaluation_set",
    metadata,
    sa.Column("study_id", sa.BigInteger, _study_key(), primary_key=True, autoincrement=False),
    # Whether it is the test set.
    sa.Column("test", sa.Boolean, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False),
    # As the evaluation worker packed them.
    sa.Column("items", sa.LargeBinary, nullable=False),
)

# One row per worker process that ever was; who is alive is read from its session.
worker = sa.Table(
    "worker",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("study_id", sa.BigInteger, _study_key(), nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("started_at", INSTANT, nullable=False, server_default=NOW),
    sa.Column("phase", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint("kind IN ('trial', 'evaluation')", name="kind"),
)
