"""Calls tell everything that they were billed for, and when somebody mended their charge."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NEW = (
    ("cache_write_1h_tokens", sa.BigInteger()),
    ("web_searches", sa.BigInteger()),
    ("seconds", sa.BigInteger()),
    ("characters", sa.BigInteger()),
    ("images", sa.BigInteger()),
    ("terms", sa.Text()),
    ("corrected_ms", sa.BigInteger()),
)


def upgrade() -> None:
    """Add columns that are null in the rows before."""
    for name, kind in _NEW:
        op.add_column("calls", sa.Column(name, kind))


def downgrade() -> None:
    """Drop them; charges stay as they were mended."""
    with op.batch_alter_table("calls") as calls:
        for name, _ in _NEW:
            calls.drop_column(name)
