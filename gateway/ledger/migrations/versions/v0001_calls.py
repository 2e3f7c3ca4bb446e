"""Calls, tasks, executions, breaches, overrides, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TABLES = (
    "calls",
    "tasks",
    "ancestry",
    "inherited_latency",
    "phase_executions",
    "breaches",
    "overrides",
    "audit",
    "epochs",
    "identity",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ancestry",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("ancestor", sa.Text(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "task", "ancestor", name="ancestry_pk"),
    )
    op.create_index("ancestry_by_ancestor", "ancestry", ["tenant", "ancestor"])
    op.create_table(
        "audit",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "number", name="audit_pk"),
    )
    op.create_table(
        "breaches",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("allowed", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text()),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant",
            "task",
            "scope",
            "name",
            "dimension",
            "effect",
            "line",
            "episode",
            name="breaches_pk",
        ),
    )
    op.create_table(
        "calls",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("reserve_number", sa.BigInteger()),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("phase", sa.Text()),
        sa.Column("execution", sa.Integer()),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("complexity", sa.Text()),
        sa.Column("importance", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("upstream", sa.Text()),
        sa.Column("dialect", sa.Text()),
        sa.Column("method", sa.Text()),
        sa.Column("path", sa.Text()),
        sa.Column("stream", sa.Boolean()),
        sa.Column("decision", sa.Text()),
        sa.Column("code", sa.Text()),
        sa.Column("status", sa.Integer()),
        sa.Column("would_refuse", sa.Boolean()),
        sa.Column("breaches", sa.Text()),
        sa.Column("policy", sa.Text()),
        sa.Column("mode", sa.Text()),
        sa.Column("policy_hash", sa.Text()),
        sa.Column("config_hash", sa.Text()),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("cached_read_tokens", sa.BigInteger()),
        sa.Column("cache_write_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("usage_source", sa.Text()),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("nano_usd", sa.BigInteger()),
        sa.Column("held_tokens", sa.BigInteger()),
        sa.Column("held_nano_usd", sa.BigInteger()),
        sa.Column("expired_tokens", sa.BigInteger()),
        sa.Column("latency_ms", sa.BigInteger()),
        sa.Column("first_byte_ms", sa.BigInteger()),
        sa.Column("task_latency_ms", sa.BigInteger(), nullable=False),
        sa.Column("phase_latency_ms", sa.BigInteger(), nullable=False),
        sa.Column("spent_tokens", sa.BigInteger()),
        sa.Column("others_held_tokens", sa.BigInteger()),
        sa.Column("line_tokens", sa.BigInteger()),
        sa.Column("spent_latency_ms", sa.BigInteger()),
        sa.Column("line_latency_ms", sa.BigInteger()),
        sa.Column("spent_nano_usd", sa.BigInteger()),
        sa.Column("others_held_nano_usd", sa.BigInteger()),
        sa.Column("line_nano_usd", sa.BigInteger()),
        sa.Column("phase_spent_tokens", sa.BigInteger()),
        sa.Column("phase_others_held_tokens", sa.BigInteger()),
        sa.Column("phase_line_tokens", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "call_id", name="calls_pk"),
    )
    op.create_index("calls_by_task", "calls", ["tenant", "task", "phase", "execution"])
    op.create_index("calls_by_time", "calls", ["tenant", "at_ms"])
    op.create_table(
        "epochs",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="epochs_pk"),
    )
    op.create_table(
        "identity",
        sa.Column("ledger_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("ledger_id", name="identity_pk"),
    )
    op.create_table(
        "inherited_latency",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("ancestor", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("latency_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "ancestor", "call_id", name="inherited_latency_pk"),
    )
    op.create_table(
        "overrides",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("phase", sa.Text()),
        sa.Column("factor", sa.Text()),
        sa.Column("tokens", sa.BigInteger()),
        sa.Column("latency_ms", sa.BigInteger()),
        sa.Column("nano_usd", sa.BigInteger()),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "number", name="overrides_pk"),
    )
    op.create_index("overrides_by_task", "overrides", ["tenant", "task"])
    op.create_table(
        "phase_executions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("execution", sa.Integer(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("tokens_limit", sa.BigInteger()),
        sa.Column("latency_limit_ms", sa.BigInteger()),
        sa.Column("nano_usd_limit", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "task", "phase", "execution", name="phase_executions_pk"),
    )
    op.create_table(
        "tasks",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("complexity", sa.Text()),
        sa.Column("importance", sa.Text()),
        sa.Column("config_hash", sa.Text()),
        sa.Column("snapshot", sa.Text()),
        sa.PrimaryKeyConstraint("tenant", "task", name="tasks_pk"),
    )


def downgrade() -> None:
    """Drop the tables, with everything in them."""
    for table in _TABLES:
        op.drop_table(table)
