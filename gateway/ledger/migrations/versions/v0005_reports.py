"""Reports: what is to be written, once for each task; and audit entries by what they are about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the queue and the index."""
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


def downgrade() -> None:
    """Drop both; reports that were not written yet are written at the next cause."""
    op.drop_index("audit_by_subject", "audit")
    op.drop_table("reports")
