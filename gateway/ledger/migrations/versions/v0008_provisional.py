"""Which tasks were blocked at their registration, and are not yet what they are to be."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column; tasks of before were told once they were what they stay."""
    op.add_column("tasks", sa.Column("provisional", sa.Boolean()))


def downgrade() -> None:
    """Drop it, with the tasks that older writers do not know."""
    op.execute("DELETE FROM tasks WHERE provisional")
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("provisional")
