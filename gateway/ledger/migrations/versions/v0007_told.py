"""What telemetry has told of executions and tasks: each begin and each end once."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add them; what there is by now is not told any more."""
    op.add_column("phase_executions", sa.Column("told", sa.Integer()))
    op.execute("UPDATE phase_executions SET told = 2")
    op.create_index("phase_executions_by_told", "phase_executions", ["told", "tenant"])
    op.create_table(
        "told",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="told_pk"),
    )
    op.execute("INSERT INTO told SELECT tenant, max(number) FROM audit GROUP BY tenant")


def downgrade() -> None:
    """Drop them; ends that are told after the next upgrade are those of new executions."""
    op.drop_table("told")
    op.drop_index("phase_executions_by_told", "phase_executions")
    with op.batch_alter_table("phase_executions") as executions:
        executions.drop_column("told")
