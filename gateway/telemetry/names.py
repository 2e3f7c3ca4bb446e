"""Every metric name, its labels and its help text, once. Labels are closed sets: a client cannot
mint series, and no task id is ever a label.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One counter: its name as exposed, its help text, its label names in order."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


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
UNPRICED = Metric("tollgate_unpriced_calls_total", "Metered calls without a known price.")
CLIENT_LEFT = Metric("tollgate_client_left_total", "Calls whose client left before the end.")
EVENTS = Metric("tollgate_events_total", "Noteworthy events, by name and level.", ("name", "level"))
CALL_MS = Metric(
    "tollgate_call_duration_ms", "Time from request to record, milliseconds.", ("dialect",)
)
LEDGER_ROWS = Metric(
    "tollgate_ledger_rows_total", "Rows that the ledger's writer has written.", ("table",)
)

COUNTERS = (
    CALLS,
    TOKENS,
    BUDGET_TOKENS,
    COST,
    USAGE_SOURCE,
    WOULD_REFUSE,
    BREACHES,
    UNPRICED,
    CLIENT_LEFT,
    EVENTS,
    LEDGER_ROWS,
)
CALL_MS_BUCKETS = (
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
)
