"""The budget of a task, exactly: base x complexity x importance x phase weight, rounded up.

Sources: requirements CAL-1..7, CFG-2..5, TRK-2, G-1, G-3, OVR-1/2 of the implementation plan, as
kept in `docs/autopilot/budgets/CONFIG_REFERENCE.md`. All arithmetic is in `Decimal`: binary floats
give 505 instead of 504 tokens for Small/low/PR. Limits are integers; tokens, milliseconds,
nano-dollars and calls are the units.

A *line* is a limit times a threshold, rounded down: what a settled total may not exceed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.vocabulary import Vocabulary

# Nothing is ever rounded before the final ceiling or floor: products of decimals are finite.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)

NANO_USD_PER_USD = 1_000_000_000


class Dimension(Vocabulary):
    """What is counted. The value is the word used in the store, the API and the logs."""

    TOKENS = "tokens"
    LATENCY_MS = "latency_ms"
    NANO_USD = "nano_usd"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Amounts:
    """One amount per dimension; None means "no limit set" where the amounts are limits."""

    tokens: int | None = None
    latency_ms: int | None = None
    nano_usd: int | None = None
    calls: int | None = None

    def get(self, dimension: Dimension) -> int | None:
        """Return the amount in `dimension`."""
        value: int | None = getattr(self, dimension.value)
        return value

    def items(self) -> tuple[tuple[Dimension, int | None], ...]:
        """Return (dimension, amount) pairs, set or not."""
        return tuple((dimension, self.get(dimension)) for dimension in Dimension)


@dataclass(frozen=True, slots=True)
class BaseBudget:
    """What a phase gets before any factor: tokens, milliseconds and, optionally, US dollars."""

    tokens: int
    latency_ms: int
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class StopLoss:
    """The stop-loss numbers of `phase_budgets.yaml`; frozen per task but for `enabled`."""

    enabled: bool = True
    cumulative_token_threshold: Decimal = Decimal("1.2")
    cumulative_latency_threshold: Decimal = Decimal("1.2")
    per_phase_threshold: Decimal = Decimal("1.5")
    allow_completion_threshold: Decimal = Decimal("1.1")
    runaway_threshold: Decimal = Decimal("2.0")
    latency_basis: str = "active"


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """How much one token of each kind counts against a budget, in thousandths."""

    input: int = 1000
    cached_read: int = 1000
    cache_write: int = 1000
    output: int = 1000

    def charge(self, plain_input: int, cached_read: int, cache_write: int, output: int) -> int:
        """Return the budget tokens for disjoint counts, rounded up."""
        milli = (
            plain_input * self.input
            + cached_read * self.cached_read
            + cache_write * self.cache_write
            + output * self.output
        )
        return -(-milli // 1000)


EQUAL_WEIGHTS = TokenWeights()


@dataclass(frozen=True, slots=True)
class PhaseBudgetConfig:
    """`phase_budgets.yaml`, validated. The hash is over its canonical content (CFG-8)."""

    base_budgets: Mapping[WorkPhase, BaseBudget]
    complexity_multipliers: Mapping[Complexity, Decimal]
    importance_multipliers: Mapping[ImportanceTier, Decimal]
    phase_weights: Mapping[WorkPhase, Decimal]
    stop_loss: StopLoss = StopLoss()
    token_weights: TokenWeights = TokenWeights()
    config_hash: str = ""


@dataclass(frozen=True, slots=True)
class BudgetMultipliers:
    """The factors that made a limit, kept beside it (CAL-7)."""

    complexity: Decimal
    importance: Decimal
    phase_weight: Decimal
    budget_multiplier: Decimal = Decimal(1)

    @property
    def product(self) -> Decimal:
        """Return all factors multiplied, exactly."""
        tiers = multiply(self.complexity, self.importance)
        return multiply(multiply(tiers, self.phase_weight), self.budget_multiplier)


@dataclass(frozen=True, slots=True)
class PhaseBudget:
    """One phase's limits, with what they were computed from."""

    phase: WorkPhase
    token_limit: int
    latency_limit_ms: int
    nano_usd_limit: int | None
    base: BaseBudget
    multipliers: BudgetMultipliers
    overridden: bool = False

    @property
    def limits(self) -> Amounts:
        """Return the limits by dimension."""
        return Amounts(self.token_limit, self.latency_limit_ms, self.nano_usd_limit)


@dataclass(frozen=True, slots=True)
class TaskBudgetOverrides:
    """A task's own limits: absolute per phase (never multiplied, OVR-1), and a factor (OVR-2)."""

    phases: Mapping[WorkPhase, Amounts] = field(default_factory=dict)
    budget_multiplier: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class TaskProfile:
    """What a task is: the input of the calculation."""

    complexity: Complexity = Complexity.MEDIUM
    importance: ImportanceTier = ImportanceTier.MEDIUM
    overrides: TaskBudgetOverrides = TaskBudgetOverrides()


def multiply(one: Decimal, other: Decimal) -> Decimal:
    """Return the exact product, however many digits it has."""
    return _EXACT.multiply(one, other)


def ceil_product(base: int | Decimal, factor: Decimal) -> int:
    """Return base x factor, rounded up to an integer, exactly (G-1, EC5)."""
    return int(
        _EXACT.multiply(Decimal(base), factor).to_integral_value(ROUND_CEILING, context=_EXACT)
    )


def floor_product(limit: int, threshold: Decimal) -> int:
    """Return limit x threshold, rounded down: the largest total that is still within."""
    return int(
        _EXACT.multiply(Decimal(limit), threshold).to_integral_value(ROUND_FLOOR, context=_EXACT)
    )


def calculate_phase_budget(
    config: PhaseBudgetConfig, phase: WorkPhase, profile: TaskProfile
) -> PhaseBudget:
    """Return one phase's limits: base x factors rounded up, or the task's absolute override."""
    base = config.base_budgets[phase]
    multipliers = BudgetMultipliers(
        config.complexity_multipliers[profile.complexity],
        config.importance_multipliers[profile.importance],
        config.phase_weights[phase],
        profile.overrides.budget_multiplier,
    )
    factor = multipliers.product
    override = profile.overrides.phases.get(phase, Amounts())
    cost_usd = base.cost_usd
    nano_usd = (
        None
        if cost_usd is None
        else ceil_product(multiply(cost_usd, Decimal(NANO_USD_PER_USD)), factor)
    )
    return PhaseBudget(
        phase=phase,
        token_limit=_first(override.tokens, ceil_product(base.tokens, factor)),
        latency_limit_ms=_first(override.latency_ms, ceil_product(base.latency_ms, factor)),
        nano_usd_limit=nano_usd if override.nano_usd is None else override.nano_usd,
        base=base,
        multipliers=multipliers,
        overridden=override != Amounts(),
    )


def _first(override: int | None, calculated: int) -> int:
    return calculated if override is None else override


def calculate_task_budgets(
    config: PhaseBudgetConfig, profile: TaskProfile
) -> dict[WorkPhase, PhaseBudget]:
    """Return the limits of all nine phases (CAL-5)."""
    return {phase: calculate_phase_budget(config, phase, profile) for phase in WorkPhase}


def calculate_total_budget(budgets: Mapping[WorkPhase, PhaseBudget]) -> Amounts:
    """Return the task's limit: the sum of all its phases' limits, whatever was executed (G-6).

    Money has a total only if every phase has a money limit: a sum over some phases would refuse
    work in the others.
    """
    nano_usd = [budget.nano_usd_limit for budget in budgets.values()]
    known = [amount for amount in nano_usd if amount is not None]
    return Amounts(
        tokens=sum(budget.token_limit for budget in budgets.values()),
        latency_ms=sum(budget.latency_limit_ms for budget in budgets.values()),
        nano_usd=sum(known) if known and len(known) == len(nano_usd) else None,
    )


def estimate_remaining_budget(
    budgets: Mapping[WorkPhase, PhaseBudget], completed: frozenset[WorkPhase]
) -> Amounts:
    """Return the summed limits of the phases not yet completed (CAL-5)."""
    return calculate_total_budget(
        {phase: budget for phase, budget in budgets.items() if phase not in completed}
    )


@dataclass(frozen=True, slots=True)
class Lines:
    """The integers that settled totals are compared with, of one scope and dimension.

    `limit` is L; `cumulative` and `runaway` are floor(L x threshold), without grants. For a phase
    the two are equal: it has one threshold.
    """

    limit: int
    cumulative: int
    runaway: int


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """The snapshot of a task's limits: what the store holds and every decision compares with."""

    profile: TaskProfile
    budgets: Mapping[WorkPhase, PhaseBudget]
    task_lines: Mapping[Dimension, Lines]
    phase_lines: Mapping[WorkPhase, Mapping[Dimension, Lines]]
    stop_loss: StopLoss
    token_weights: TokenWeights
    config_hash: str


def task_limits(config: PhaseBudgetConfig, profile: TaskProfile) -> TaskLimits:
    """Return the whole snapshot for a task that starts under `config` now (D3, CAL-6)."""
    budgets = calculate_task_budgets(config, profile)
    return TaskLimits(
        profile=profile,
        budgets=budgets,
        task_lines=task_lines(calculate_total_budget(budgets), config.stop_loss),
        phase_lines={
            phase: phase_lines(budget.limits, config.stop_loss) for phase, budget in budgets.items()
        },
        stop_loss=config.stop_loss,
        token_weights=config.token_weights,
        config_hash=config.config_hash,
    )


def task_lines(limits: Amounts, stop_loss: StopLoss) -> dict[Dimension, Lines]:
    """Return the lines of a task: money is held to the token thresholds."""
    lines = {}
    for dimension, limit in limits.items():
        if limit is None:
            continue
        cumulative = (
            stop_loss.cumulative_latency_threshold
            if dimension is Dimension.LATENCY_MS
            else stop_loss.cumulative_token_threshold
        )
        lines[dimension] = Lines(
            limit,
            floor_product(limit, cumulative),
            floor_product(limit, stop_loss.runaway_threshold),
        )
    return lines


LAST_PHASES = (WorkPhase.PR, WorkPhase.MONITOR)
_COMPLETED_BY = (Dimension.TOKENS, Dimension.NANO_USD)


def completion_lines(
    budgets: Mapping[WorkPhase, PhaseBudget], stop_loss: StopLoss
) -> dict[Dimension, int]:
    """Return the largest totals at which a task may be let through to its end (SL-9, G-5).

    Such a total is below the completion threshold, and leaves room for the limits of PR and
    MONITOR up to the cumulative line.
    """
    total = calculate_total_budget(budgets)
    rest = calculate_total_budget({phase: budgets[phase] for phase in LAST_PHASES})
    found = {}
    for dimension, line in task_lines(total, stop_loss).items():
        if dimension in _COMPLETED_BY:
            below = ceil_product(line.limit, stop_loss.allow_completion_threshold) - 1
            found[dimension] = min(below, line.cumulative - (rest.get(dimension) or 0))
    return found


def phase_lines(limits: Amounts, stop_loss: StopLoss) -> dict[Dimension, Lines]:
    """Return the lines of a phase, which has one threshold."""
    lines = {}
    for dimension, limit in limits.items():
        if limit is not None:
            line = floor_product(limit, stop_loss.per_phase_threshold)
            lines[dimension] = Lines(limit, line, line)
    return lines


class BreachStatus(Vocabulary):
    """How far a total stands against its limit (TRK-2, G-3)."""

    WITHIN = "within"
    WARNING = "warning"
    EXCEEDED = "exceeded"


def breach_status(used: int, limit: int, exceeded_above: int) -> BreachStatus:
    """Return the status: within up to the limit, warning up to the line, exceeded above it.

    Boundaries are exact: `used == limit` is within, `used == exceeded_above` is a warning.
    """
    if used <= limit:
        return BreachStatus.WITHIN
    return BreachStatus.WARNING if used <= exceeded_above else BreachStatus.EXCEEDED


def percent(used: int, limit: int) -> int:
    """Return used / limit in percent, rounded half up; 0 of 0 is 0, more than 0 of 0 is 100."""
    if limit <= 0:
        return 100 if used > 0 else 0
    return (used * 200 + limit) // (2 * limit)


def format_budget_breakdown(limits: TaskLimits) -> str:
    """Return the snapshot as a table for people: one line a phase, totals below (CAL-5)."""
    rows = [f"{'phase':<11} {'tokens':>9} {'latency':>14}  base x factors"]
    for phase, budget in limits.budgets.items():
        factors = budget.multipliers
        how = (
            "override (absolute)"
            if budget.overridden
            else f"{budget.base.tokens:,} x {factors.complexity} x {factors.importance}"
            f" x {factors.phase_weight}"
        )
        if factors.budget_multiplier != 1 and not budget.overridden:
            how += f" x {factors.budget_multiplier}"
        rows.append(
            f"{phase.value:<11} {budget.token_limit:>9,} {budget.latency_limit_ms:>11,} ms  {how}"
        )
    total = calculate_total_budget(limits.budgets)
    rows.append(f"{'total':<11} {total.tokens or 0:>9,} {total.latency_ms or 0:>11,} ms")
    return "\n".join(rows)
