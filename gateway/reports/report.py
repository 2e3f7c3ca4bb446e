"""A task's budget report as a value: what both the text and the JSON twin are rendered from.

Amounts are integers: tokens, milliseconds, nano-dollars, calls. Moments are ISO 8601, UTC. None
stands for what is not known; `unavailable` tells why. No I/O.
"""

from dataclasses import dataclass
from typing import Literal

UnitName = Literal["tokens", "latency_ms", "nano_usd", "calls"]


@dataclass(frozen=True, slots=True)
class Amount:
    """One dimension. `allowed` is the limit with its grants; without a limit, None."""

    used: int
    limit: int | None = None
    granted: int = 0
    allowed: int | None = None
    percent: int | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Amounts:
    """All dimensions."""

    tokens: Amount
    latency_ms: Amount
    nano_usd: Amount
    calls: Amount


@dataclass(frozen=True, slots=True)
class Factors:
    """What a phase's limits were made from (CAL-7): decimals as text, exactly.

    `absolute`: an override set the limits; then no factor scales them.
    """

    base_tokens: int
    base_latency_ms: int
    complexity: str
    importance: str
    phase_weight: str
    budget_multiplier: str
    absolute: bool


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """A phase. `status` is `not_started`, or the worst of its dimensions."""

    phase: str
    status: str
    executions: int
    tokens: Amount
    latency_ms: Amount
    nano_usd: Amount
    factors: Factors
    estimated_calls: int = 0


@dataclass(frozen=True, slots=True)
class StopLossReport:
    """Whether the task is stopped, by what, since when; `remediation` of the latest episode."""

    state: str
    code: str | None
    dimension: str | None
    since: str | None
    episode: int
    remediation: str | None


@dataclass(frozen=True, slots=True)
class OverrideReport:
    """A change of limits. Who and why are None in a redacted report."""

    kind: str
    tokens: int | None
    latency_ms: int | None
    nano_usd: int | None
    phase: str | None
    factor: str | None
    created: str
    expires: str | None
    in_force: bool
    approver: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class BreachReport:
    """A line that was crossed, at the first call that met it with this effect (SL-3b).

    `name` is whose line it is: the task's, an ancestor's, a phase's; None in a redacted report.
    """

    scope: str
    name: str | None
    dimension: str
    effect: str
    code: str
    used: int
    allowed: int
    line: int
    percent: int
    episode: int
    phase: str | None
    call: str | None
    at: str


@dataclass(frozen=True, slots=True)
class BlockedReport:
    """Attempts that were refused, in all and by the code of the refusal."""

    attempts: int
    by_code: dict[str, int]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A phase above 150 % of a limit, or that ended below 50 % of its tokens (PM7)."""

    phase: str
    dimension: str
    percent: int
    used: int
    allowed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Completed tasks of the same tiers; `percent_of_median` is of the tokens, None of 0."""

    tasks: int
    median_tokens: int
    median_latency_ms: int
    percent_of_median: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A task's budget report. Its fields are those of the JSON twin (REP-5).

    `state` is the task's; unless it is `completed`, the report is `mid_task`. `data_source` is
    `provider`, `estimated` or `mixed`, by who counted the tokens; `figures_from` is `store` or
    `ledger`. What is not known is None, and `unavailable` has a sentence on it. `doubts` say what
    speaks for a block having been wrong.
    """

    task_id: str
    generated_at: str
    mid_task: bool
    state: str | None
    current_phase: str | None
    executive_summary: tuple[str, ...]
    budget_status: str | None
    stop_loss: StopLossReport | None
    totals: Amounts | None
    phases: tuple[PhaseReport, ...]
    complexity: str | None
    importance: str | None
    config_hash: str | None
    thresholds: dict[str, str]
    data_source: str | None
    figures_from: str | None
    estimated_share: float | None
    unpriced_calls: int | None
    overrides: tuple[OverrideReport, ...]
    breaches: tuple[BreachReport, ...] | None
    blocked: BlockedReport | None
    anomalies: tuple[Anomaly, ...]
    similar_tasks: Comparison | None
    recommendations: tuple[str, ...]
    doubts: tuple[str, ...]
    unavailable: tuple[str, ...]
    redacted: bool = False
