"""The ledger's tables. Their history is in `migrations/`; a test holds the two to each other.

Every row belongs to a tenant. Times are milliseconds of the store's clock, money is nano-dollars,
flags of old rows may be null (columns are added nullable, so that old records stay readable).
`number` is the tenant's sequence number of the act that wrote a row: reserves and settlements in
the order in which the store made them.

Untagged calls are in a task of their own, `-` and the gateway key's id (`-anonymous` without keys).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

METADATA = MetaData()


def _text(name: str) -> "Column[str]":
    return Column(name, Text, nullable=False)


def _big(name: str) -> "Column[int]":
    return Column(name, BigInteger, nullable=False)


def _maybe_text(name: str) -> "Column[str]":
    return Column(name, Text)


def _maybe_big(name: str) -> "Column[int]":
    return Column(name, BigInteger)


CALLS = Table(
    "calls",
    METADATA,
    _text("tenant"),
    _text("call_id"),
    # settled, expired (its gateway died: charged what it held), released (nothing was sent) or
    # refused. A call that expired may still be settled or released: `expired_tokens` tells.
    _text("state"),
    _big("number"),
    _maybe_big("reserve_number"),
    _text("task"),
    _maybe_text("key"),
    _maybe_text("phase"),
    Column("execution", Integer),
    Column("generation", Integer),  # of the task's life: 2 once it was reopened (G-18)
    _big("started_ms"),
    _big("at_ms"),
    # Tiers of the task's snapshot; `tags` (JSON) is what the call itself named.
    _maybe_text("complexity"),
    _maybe_text("importance"),
    _maybe_text("tags"),
    _maybe_text("model"),
    _maybe_text("model_served"),
    _maybe_text("upstream"),
    _maybe_text("dialect"),
    _maybe_text("method"),
    _maybe_text("path"),
    Column("stream", Boolean),
    _maybe_text("decision"),
    _maybe_text("code"),
    Column("status", Integer),
    Column("would_refuse", Boolean),
    _maybe_text("breaches"),
    _maybe_text("policy"),
    _maybe_text("mode"),
    _maybe_text("policy_hash"),
    _maybe_text("config_hash"),
    # Raw counts in inclusive buckets; `tokens` is what was charged to budgets.
    _maybe_big("input_tokens"),
    _maybe_big("cached_read_tokens"),
    _maybe_big("cache_write_tokens"),
    _maybe_big("output_tokens"),
    _maybe_big("reasoning_tokens"),
    # The part of cache_write_tokens that is kept an hour; what is billed beside tokens or instead
    # of them; and the words that change the price (`flex`, `priority`, ...), null for standard.
    _maybe_big("cache_write_1h_tokens"),
    _maybe_big("web_searches"),
    _maybe_big("seconds"),
    _maybe_big("characters"),
    _maybe_big("images"),
    _maybe_text("terms"),
    _maybe_text("usage_source"),
    _big("tokens"),
    _maybe_big("nano_usd"),  # null: no price was known
    _maybe_big("held_tokens"),
    _maybe_big("held_nano_usd"),
    _maybe_big("expired_tokens"),
    _maybe_big("latency_ms"),
    _maybe_big("first_byte_ms"),
    Column("client_left", Boolean),
    # The windows of spend limits in which it was let through, joined by spaces, each named
    # policy:kind:name@window as in the store (store/keys.py); null: it is held to none.
    _maybe_text("windows"),
    _maybe_big("corrected_ms"),  # when somebody mended the charge; `audit` has who, and what it was
    # What the call's end added to the task's active time, and to its phase execution's.
    _big("task_latency_ms"),
    _big("phase_latency_ms"),
    # S, H and C at the decision.
    _maybe_big("spent_tokens"),
    _maybe_big("others_held_tokens"),
    _maybe_big("line_tokens"),
    _maybe_big("spent_latency_ms"),
    _maybe_big("line_latency_ms"),
    _maybe_big("spent_nano_usd"),
    _maybe_big("others_held_nano_usd"),
    _maybe_big("line_nano_usd"),
    _maybe_big("phase_spent_tokens"),
    _maybe_big("phase_others_held_tokens"),
    _maybe_big("phase_line_tokens"),
    PrimaryKeyConstraint("tenant", "call_id", name="calls_pk"),
    Index("calls_by_task", "tenant", "task", "phase", "execution"),
    Index("calls_by_time", "tenant", "at_ms"),
)

TASKS = Table(
    "tasks",
    METADATA,
    _text("tenant"),
    _text("task"),
    _big("created_ms"),
    _text("facts"),
    _maybe_text("complexity"),
    _maybe_text("importance"),
    _maybe_text("config_hash"),
    _maybe_text("snapshot"),  # JSON; null for the bucket of untagged calls
    # True of one that was blocked at its registration: a correct one takes this row's place.
    Column("provisional", Boolean),
    PrimaryKeyConstraint("tenant", "task", name="tasks_pk"),
    Index("tasks_by_tiers", "tenant", "complexity", "importance", "created_ms"),
)

ANCESTRY = Table(
    "ancestry",
    METADATA,
    _text("tenant"),
    _text("task"),
    _text("ancestor"),
    Column("depth", Integer, nullable=False),  # 1 is the parent
    PrimaryKeyConstraint("tenant", "task", "ancestor", name="ancestry_pk"),
    Index("ancestry_by_ancestor", "tenant", "ancestor"),
)

# What a call's end added to the active time of its task's ancestors.
INHERITED_LATENCY = Table(
    "inherited_latency",
    METADATA,
    _text("tenant"),
    _text("ancestor"),
    _text("call_id"),
    _big("number"),
    _big("latency_ms"),
    PrimaryKeyConstraint("tenant", "ancestor", "call_id", name="inherited_latency_pk"),
)

# Start and limits (TRK-1); what an execution used is summed up from its calls.
PHASE_EXECUTIONS = Table(
    "phase_executions",
    METADATA,
    _text("tenant"),
    _text("task"),
    _text("phase"),
    Column("execution", Integer, nullable=False),
    Column("generation", Integer),
    _big("started_ms"),
    _maybe_big("tokens_limit"),
    _maybe_big("latency_limit_ms"),
    _maybe_big("nano_usd_limit"),
    # What telemetry has told of it: null nothing, 1 its begin, 2 its end.
    Column("told", Integer),
    PrimaryKeyConstraint("tenant", "task", "phase", "execution", name="phase_executions_pk"),
    Index("phase_executions_by_told", "told", "tenant"),
)

# One row for each line that a task, its ancestor or its phase has crossed, at the first call that
# met it, by effect: flag, refuse, or trip, which has an episode.
BREACHES = Table(
    "breaches",
    METADATA,
    _text("tenant"),
    _text("task"),
    _text("scope"),
    _text("name"),
    _text("dimension"),
    _text("effect"),
    _big("line"),
    Column("episode", Integer, nullable=False),
    _text("code"),
    _big("used"),
    _big("allowed"),
    _maybe_text("phase"),
    _text("call_id"),
    _big("number"),
    _big("at_ms"),
    PrimaryKeyConstraint(
        *("tenant", "task", "scope", "name", "dimension", "effect", "line", "episode"),
        name="breaches_pk",
    ),
    Index("breaches_by_name", "tenant", "name"),
)

OVERRIDES = Table(
    "overrides",
    METADATA,
    _text("tenant"),
    _big("number"),
    _text("task"),
    _text("kind"),
    _text("approver"),
    _text("reason"),
    _big("created_ms"),
    _maybe_big("expires_ms"),
    _maybe_text("phase"),
    _maybe_text("factor"),
    _maybe_big("tokens"),
    _maybe_big("latency_ms"),
    _maybe_big("nano_usd"),
    _text("document"),  # JSON, as the store keeps it
    PrimaryKeyConstraint("tenant", "number", name="overrides_pk"),
    Index("overrides_by_task", "tenant", "task"),
)

AUDIT = Table(
    "audit",
    METADATA,
    _text("tenant"),
    _big("number"),
    _big("at_ms"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("reason"),
    _text("details"),  # JSON
    PrimaryKeyConstraint("tenant", "number", name="audit_pk"),
    Index("audit_by_subject", "tenant", "subject", "number"),
)

# Up to which number of the audit telemetry has told of tasks' ends.
TOLD = Table(
    "told",
    METADATA,
    _text("tenant"),
    _big("number"),
    PrimaryKeyConstraint("tenant", name="told_pk"),
)

# What is otherwise in the store alone: gateway keys (`key:<id>`, with digests of secrets, never a
# secret) and session bindings (`session:<id>`) as JSON, the latest version of each. A binding that
# was ended has no document.
RECORDS = Table(
    "records",
    METADATA,
    _text("tenant"),
    _text("subject"),
    _big("version"),
    _maybe_text("document"),
    _maybe_big("expires_ms"),
    PrimaryKeyConstraint("tenant", "subject", name="records_pk"),
)

# Which data of the store the ledger goes with: another epoch means that the store lost its data.
EPOCHS = Table(
    "epochs",
    METADATA,
    _text("tenant"),
    _text("epoch"),
    PrimaryKeyConstraint("tenant", name="epochs_pk"),
)

IDENTITY = Table(
    "identity", METADATA, _text("ledger_id"), PrimaryKeyConstraint("ledger_id", name="identity_pk")
)

# Sums of calls that retention has deleted, by field of the task's hash in the store, so that totals
# still agree. The window of a spend limit stands here as `window:` and its name in place of a task.
CARRIED = Table(
    "carried",
    METADATA,
    _text("tenant"),
    _text("task"),
    _text("field"),
    _big("amount"),
    PrimaryKeyConstraint("tenant", "task", "field", name="carried_pk"),
)

# Entries of the stream that could not be understood, for a person to look at.
REJECTED = Table(
    "rejected",
    METADATA,
    _text("tenant"),
    _text("entry_id"),
    _text("reason"),
    _text("entry"),
    PrimaryKeyConstraint("tenant", "entry_id", name="rejected_pk"),
)

# Remediation tasks, one a breach episode. `state`: pending, failed (to be tried again at `due_ms`,
# of the writer's clock), written (in the roadmap file), or listed (there is no file).
REMEDIATIONS = Table(
    "remediations",
    METADATA,
    _text("tenant"),
    _text("task"),
    Column("episode", Integer, nullable=False),
    _text("name"),
    _big("created_ms"),
    _text("state"),
    Column("attempts", Integer, nullable=False),
    _big("due_ms"),
    _maybe_text("error"),
    _text("document"),  # JSON
    PrimaryKeyConstraint("tenant", "task", "episode", name="remediations_pk"),
    Index("remediations_by_state", "state", "due_ms"),
)

# Notices for webhooks. `state`: pending (also between two attempts), delivered, or dead: nobody
# tries any more. `error` is why the latest attempt failed.
DELIVERIES = Table(
    "deliveries",
    METADATA,
    _text("tenant"),
    _text("webhook"),
    _text("id"),
    _text("kind"),
    _text("task"),
    _big("created_ms"),
    _text("state"),
    Column("attempts", Integer, nullable=False),
    _big("due_ms"),
    _maybe_text("error"),
    _text("body"),  # JSON, the bytes that are signed and sent
    PrimaryKeyConstraint("tenant", "webhook", "id", name="deliveries_pk"),
    Index("deliveries_by_state", "state", "due_ms"),
)

# Reports to be written, one row a task: what asks for one again finds it there. `state`: pending,
# failed (to be tried again at `due_ms`, of the writer's clock), or written. `version` counts how
# often it was asked for, so that what was asked for meanwhile is not taken for written.
REPORTS = Table(
    "reports",
    METADATA,
    _text("tenant"),
    _text("task"),
    _text("cause"),
    _big("asked_ms"),
    Column("version", Integer, nullable=False),
    _text("state"),
    Column("attempts", Integer, nullable=False),
    _big("due_ms"),
    _maybe_text("error"),
    PrimaryKeyConstraint("tenant", "task", name="reports_pk"),
    Index("reports_by_state", "state", "due_ms"),
)
