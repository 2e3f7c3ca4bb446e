"""Retention carries sums forward; entries that cannot be understood are kept; more is told."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NEW = (("tags", sa.Text()), ("model_served", sa.Text()), ("client_left", sa.Boolean()))


def upgrade() -> None:
    """Add two tables, and columns that are null in the rows before."""
    op.create_table(
        "carried",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "task", "field", name="carried_pk"),
    )
    op.create_table(
        "rejected",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "entry_id", name="rejected_pk"),
    )
    for name, kind in _NEW:
        op.add_column("calls", sa.Column(name, kind))


def downgrade() -> None:
    """Drop what was added; sums of deleted calls are gone with it."""
    with op.batch_alter_table("calls") as calls:
        for name, _ in _NEW:
            calls.drop_column(name)
    op.drop_table("rejected")
    op.drop_table("carried")
