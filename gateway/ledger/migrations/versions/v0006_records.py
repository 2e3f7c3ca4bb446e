"""What gives back all that a store may lose: windows of calls, keys, bindings, generations."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add columns that are null in the rows before, and the table of keys and bindings."""
    op.add_column("calls", sa.Column("generation", sa.Integer()))
    op.add_column("calls", sa.Column("windows", sa.Text()))
    op.add_column("phase_executions", sa.Column("generation", sa.Integer()))
    op.create_table(
        "records",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text()),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "subject", name="records_pk"),
    )


def downgrade() -> None:
    """Drop them; the writer mirrors keys anew after the next upgrade."""
    op.drop_table("records")
    with op.batch_alter_table("phase_executions") as executions:
        executions.drop_column("generation")
    with op.batch_alter_table("calls") as calls:
        calls.drop_column("windows")
        calls.drop_column("generation")
