"""How a gateway has done over a period: figures of the ledger, and which of them are alarming.

Thresholds are those of the rollout plan: SUC-1 (success), RBK-1 (rollback), PM1, PM5, PM6, EC23.
Shares are percents. A figure that nothing is known of is None, and its state `no_data`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from gateway.core.vocabulary import Vocabulary

VERDICT_ACTION = "breach.verdict"
VERDICT_SUBJECT = "breach:"  # and the id of the call that met the line
PERCENTILES = (50, 75, 90, 95, 99)
_HUNDREDTH = Decimal("0.01")
_MONTH_MS = 30 * 86_400_000


class TriggerState(Vocabulary):
    """Whether a figure is beyond its threshold."""

    OK = "ok"
    ALERT = "alert"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A figure held to a threshold; `beyond` says which side alerts: `above` or `below`."""

    name: str
    rule: str
    value: float | None
    threshold: float
    beyond: str
    state: TriggerState


@dataclass(frozen=True, slots=True)
class Spread:
    """Nearest-rank percentiles of what executions of a phase used, by percentile as text."""

    phase: str
    complexity: str | None
    executions: int
    tokens: Mapping[str, int]
    latency_ms: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trend:
    """The median of a model's tokens a call in a phase: the last seven days and those before."""

    model: str
    phase: str
    median_before: int
    median_now: int
    change_percent: float | None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Refusals and stops of one importance, and what people judged of them (PM2)."""

    importance: str
    blocks: int
    false_positives: int
    justified: int
    false_positive_percent: float | None


@dataclass(frozen=True, slots=True)
class Savings:
    """Tokens a task and p95 latency of calls, against a period as long before it (PM5)."""

    tokens_per_task_before: float | None
    tokens_per_task: float | None
    tokens_change_percent: float | None
    p95_latency_ms_before: int | None
    p95_latency_ms: int | None
    latency_change_percent: float | None


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """Tasks that began in the period: all, within their limit, stopped, would have been stopped."""

    tasks: int = 0
    within_limit: int = 0
    stopped: int = 0
    would_refuse: int = 0
    importance: Mapping[str, int] | None = None

    def percent_of(self, part: int) -> float | None:
        """Return a part of the tasks; None if there are none."""
        return percent(part, self.tasks)


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls that ended in the period. `sources` counts charged calls by who counted their tokens.

    `refused` are refusals by code.
    """

    calls: int
    would_refuse: int
    refused: Mapping[str, int]
    tokens: int
    nano_usd: int
    sources: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Everything of a period, from `since_ms`, before `until_ms`."""

    since_ms: int
    until_ms: int
    tasks: TaskCounts
    calls: CallCounts
    blocks: Sequence[Blocks]
    spreads: Sequence[Spread]
    trends: Sequence[Trend]
    savings: Savings
    stuck_tasks: int
    rejected_entries: int


def percent(part: float, whole: float) -> float | None:
    """Return a share with two decimals; None of nothing."""
    if not whole:
        return None
    exact = Decimal(part) * 100 / Decimal(whole)
    return float(exact.quantize(_HUNDREDTH, rounding=ROUND_HALF_EVEN))


def nearest_rank(ascending: Sequence[int], percentile: int) -> int:
    """Return a percentile, 1 to 100, of amounts in ascending order, of which there is one."""
    return ascending[(len(ascending) * percentile + 99) // 100 - 1]


def change_percent(before: float | None, now: float | None) -> float | None:
    """Return how much more is used now; None where there is nothing to compare to."""
    if not before or now is None:
        return None
    return percent(now - before, before)


def false_positive_percent(blocks: Sequence[Blocks]) -> float | None:
    """Return the share of false positives in all blocks; None before anybody judged one."""
    judged = sum(one.false_positives + one.justified for one in blocks)
    if not judged:
        return None
    return percent(sum(one.false_positives for one in blocks), sum(one.blocks for one in blocks))


def saved_nano_usd(figures: Statistics) -> int | None:
    """Return what the period cost less than it would have, nano-dollars; below 0 it cost more.

    Tasks that use fewer tokens than those before, at the period's own price of a token. None where
    there is nothing to compare to.
    """
    before, now = figures.savings.tokens_per_task_before, figures.savings.tokens_per_task
    if before is None or now is None or not figures.calls.tokens:
        return None
    tokens = Decimal(before - now) * figures.tasks.tasks
    return int(tokens * figures.calls.nano_usd / figures.calls.tokens)


def return_on_investment(figures: Statistics, monthly_nano_usd: int | None) -> float | None:
    """Return how many times its running cost a gateway has saved; None if either is unknown."""
    saved = saved_nano_usd(figures)
    if saved is None or not monthly_nano_usd:
        return None
    cost = Decimal(monthly_nano_usd) * (figures.until_ms - figures.since_ms) / _MONTH_MS
    return float((saved / cost).quantize(_HUNDREDTH, rounding=ROUND_HALF_EVEN))


def triggers(figures: Statistics, monthly_nano_usd: int | None = None) -> list[Trigger]:
    """Return each figure that has a threshold, with its state.

    `monthly_nano_usd` is what the gateway costs to run for thirty days, None if nobody said.
    """
    gain = return_on_investment(figures, monthly_nano_usd)
    tasks, false_positives = figures.tasks, false_positive_percent(figures.blocks)
    stopped = tasks.percent_of(tasks.stopped)
    critical = tasks.percent_of((tasks.importance or {}).get("critical", 0))
    changes = [abs(one.change_percent) for one in figures.trends if one.change_percent is not None]
    return [
        _trigger("within_limit", "SUC-1", tasks.percent_of(tasks.within_limit), 90, "below"),
        _trigger("stop_loss", "SUC-1", stopped, 5),
        _trigger("stop_loss_high", "PM1", stopped, 10),
        _trigger("false_positives", "SUC-1", false_positives, 2),
        _trigger("false_positives_rollback", "RBK-1", false_positives, 5),
        _trigger("false_positives_kill", "RBK-1", false_positives, 20),
        _trigger("shadow_breaches", "RBK-1", tasks.percent_of(tasks.would_refuse), 30),
        _trigger("critical_tasks", "PM6", critical, 10),
        _trigger("token_trend", "EC23", max(changes, default=None), 20),
        _trigger("stuck_tasks", "PM4", figures.stuck_tasks, 0),
        _trigger("ledger_rejections", "PM4", figures.rejected_entries, 0),
        _trigger("return_on_investment", "PM5", gain, 3, "below"),
        _trigger("return_on_investment_sunset", "PM5", gain, 2, "below"),
    ]


def _trigger(
    name: str, rule: str, value: float | None, threshold: float, beyond: str = "above"
) -> Trigger:
    if value is None:
        state = TriggerState.NO_DATA
    else:
        alarming = value > threshold if beyond == "above" else value < threshold
        state = TriggerState.ALERT if alarming else TriggerState.OK
    return Trigger(name, rule, value, threshold, beyond, state)
