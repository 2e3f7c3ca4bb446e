"""Reports: the queue of those to be written, and indexes for what they are made of."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the queue and the indexes."""
    op.create_table(
        "reports",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("tenant", "task", name="reports_pk"),
    )
    op.create_index("reports_by_state", "reports", ["state", "due_ms"])
    op.create_index("audit_by_subject", "audit", ["tenant", "subject", "number"])
    op.create_index("breaches_by_name", "breaches", ["tenant", "name"])
    op.create_index("tasks_by_tiers", "tasks", ["tenant", "complexity", "importance", "created_ms"])


def downgrade() -> None:
    """Drop them; reports that were not written yet are written at the next cause."""
    op.drop_index("tasks_by_tiers", "tasks")
    op.drop_index("breaches_by_name", "breaches")
    op.drop_index("audit_by_subject", "audit")
    op.drop_table("reports")
