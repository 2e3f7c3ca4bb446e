"""Every metric name, its labels and its help text, once. Labels are closed sets: a client cannot
mint series, and no task id is ever a label.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter, gauge or histogram: name as exposed, help text, label names in order."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets_ms: tuple[int, ...] = ()


CALL_MS_BUCKETS = (
    *(5, 10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000),
)
PHASE_MS_BUCKETS = (
    *(1_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000),
    *(1_800_000, 3_600_000, 14_400_000, 86_400_000),
)
_OF_PHASE = ("phase", "complexity", "importance", "breach_status")
_OF_TASK = ("complexity", "importance", "budget_status")

CALLS = Metric(
    "tollgate_calls_total",
    "Finished calls.",
    ("outcome", "code", "dialect", "upstream", "status_class", "phase"),
)
TOKENS = Metric(
    "tollgate_tokens_total", "Tokens charged, by bucket.", ("bucket", "source", "phase")
)
BUDGET_TOKENS = Metric("tollgate_budget_tokens_total", "Weighted tokens charged.", ("phase",))
COST = Metric("tollgate_cost_nano_usd_total", "Cost charged, nano-dollars.", ("phase",))
USAGE_SOURCE = Metric(
    "tollgate_usage_source_total", "Metered calls by where their counts came from.", ("source",)
)
WOULD_REFUSE = Metric(
    "tollgate_would_refuse_total",
    "Calls that a policy in observe mode would have refused.",
    ("phase", "complexity", "importance"),
)
BREACHES = Metric(
    "tollgate_breaches_total", "Crossed lines seen at a decision.", ("scope", "dimension", "phase")
)
BUDGET_NOTICES = Metric(
    "tollgate_budget_notices_total", "Tasks that came to a notice level, percent.", ("percent",)
)
UNPRICED = Metric("tollgate_unpriced_calls_total", "Metered calls without a known price.")
CLIENT_LEFT = Metric("tollgate_client_left_total", "Calls whose client left before the end.")
EVENTS = Metric("tollgate_events_total", "Noteworthy events, by name and level.", ("name", "level"))
CALL_MS = Metric(
    "tollgate_call_duration_ms",
    "Time from request to record, milliseconds.",
    ("dialect",),
    CALL_MS_BUCKETS,
)
PHASE_TOKENS = Metric(
    "autopilot_phase_tokens_used_total", "Tokens of ended phase executions.", _OF_PHASE
)
PHASE_MS = Metric(
    "autopilot_phase_latency_ms",
    "Active time of ended phase executions, milliseconds.",
    _OF_PHASE,
    PHASE_MS_BUCKETS,
)
PHASE_BREACHES = Metric(
    "autopilot_phase_budget_breach_total",
    "Ended phase executions above their limit.",
    _OF_PHASE,
)
TASK_TOKENS = Metric("autopilot_task_tokens_total", "Tokens of completed tasks.", _OF_TASK)
TASK_MS = Metric(
    "autopilot_task_latency_total_ms",
    "Active time of completed tasks, milliseconds.",
    _OF_TASK,
    PHASE_MS_BUCKETS,
)
TELEMETRY_DROPPED = Metric(
    "tollgate_telemetry_dropped_total",
    "Spans that the collector of telemetry did not take.",
)
OVERHEAD_CALLS = Metric(
    "tollgate_overhead_calls_total", "Calls whose time up to the decision was measured."
)
OVERHEAD_NS = Metric(
    "tollgate_overhead_ns_total",
    "That time: from a request's last byte to its decision, the store's answer included.",
)
LEDGER_ROWS = Metric(
    "tollgate_ledger_rows_total", "Rows that the ledger's writer has written.", ("table",)
)

COUNTERS = (
    OVERHEAD_CALLS,
    OVERHEAD_NS,
    CALLS,
    TOKENS,
    BUDGET_TOKENS,
    COST,
    USAGE_SOURCE,
    WOULD_REFUSE,
    BREACHES,
    BUDGET_NOTICES,
    UNPRICED,
    CLIENT_LEFT,
    EVENTS,
    LEDGER_ROWS,
    PHASE_TOKENS,
    PHASE_BREACHES,
    TASK_TOKENS,
    TELEMETRY_DROPPED,
)
HISTOGRAMS = (CALL_MS, PHASE_MS, TASK_MS)
WORKERS_READY = Metric("tollgate_workers_ready", "Workers that accept calls.")
OPEN_CALLS = Metric("tollgate_open_calls", "Calls that are under way.")
STORE_CONNECTED = Metric("tollgate_store_connected", "1 while the supervisor's store is connected.")
STORE_UP = Metric("tollgate_store_up", "1 while the store answers the supervisor and all workers.")
JOURNAL_ENTRIES = Metric(
    "tollgate_journal_entries", "Settlements and releases on disk that the store has yet to take."
)
JOURNAL_BYTES = Metric("tollgate_journal_bytes", "Their size on disk.")
OTHER_RULES = Metric(
    "tollgate_gateways_with_other_rules",
    "Gateways of the same store that run on other policies or budgets.",
)
ENFORCEMENT_OFF = Metric(
    "tollgate_enforcement_switched_off",
    "1 while enforcement is switched off for all gateways of the store.",
)
CONFIG_FROM_FILE = Metric(
    "tollgate_config_from_file",
    "1 if the budgets come from the file, 0 if they are the built-in defaults.",
)
LEDGER_WRITING = Metric("tollgate_ledger_writing", "1 while this gateway's writer has the ledger.")
LEDGER_BYTES = Metric("tollgate_ledger_bytes", "Size of the ledger's database.")
LEDGER_WAITING = Metric(
    "tollgate_ledger_waiting_entries", "Entries in the stream that the database does not have yet."
)
LEDGER_LAG = Metric("tollgate_ledger_lag_ms", "Age of the oldest of them, milliseconds.")
LEDGER_LOST = Metric(
    "tollgate_ledger_lost_entries", "Entries that were dropped because the stream was full."
)
STATISTICS_ALERT = Metric(
    "tollgate_statistics_alert", "1 while a figure is beyond its threshold, 0 within.", ("trigger",)
)
BUILD_INFO = Metric("tollgate_build_info", "1, labelled by version.", ("version",))

GAUGES = (
    WORKERS_READY,
    OPEN_CALLS,
    STORE_CONNECTED,
    STORE_UP,
    JOURNAL_ENTRIES,
    JOURNAL_BYTES,
    OTHER_RULES,
    ENFORCEMENT_OFF,
    CONFIG_FROM_FILE,
    LEDGER_WRITING,
    LEDGER_BYTES,
    LEDGER_WAITING,
    LEDGER_LAG,
    LEDGER_LOST,
    STATISTICS_ALERT,
    BUILD_INFO,
)
