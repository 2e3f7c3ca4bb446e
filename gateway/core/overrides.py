"""Overrides: attributed, reasoned, expiring changes to a running task's limits.

The snapshot is never edited. What is in force is computed from it and the overrides that have not
run out, so that the end of an override needs no undoing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from gateway.core.budget import (
    NANO_USD_PER_USD,
    Amounts,
    Dimension,
    Lines,
    PhaseBudget,
    TaskLimits,
    calculate_total_budget,
    ceil_product,
    completion_lines,
    multiply,
    phase_lines,
    task_lines,
)
from gateway.core.phases import WorkPhase
from gateway.core.vocabulary import Vocabulary

_NOTHING = Amounts()


class OverrideKind(Vocabulary):
    """What an override does to a task."""

    GRANT = "grant"
    PHASE_LIMIT = "phase_limit"
    MULTIPLIER = "multiplier"
    RESUME = "resume"
    GENERATION = "generation"


ROOM_GIVING = frozenset({OverrideKind.GRANT, OverrideKind.GENERATION})


@dataclass(frozen=True, slots=True)
class Override:
    """One entry of a task's override history. Times are store milliseconds; no expiry is None.

    `token` names the admin token that it was sent with, if that has a name. Of kind `generation`,
    `amounts` and `used` are what the task and its phases had used when it was begun anew.
    """

    kind: OverrideKind
    approver: str
    reason: str
    created_ms: int
    expires_ms: int | None = None
    amounts: Amounts = _NOTHING
    phase: WorkPhase | None = None
    factor: Decimal | None = None
    token: str | None = None
    used: Mapping[WorkPhase, Amounts] = field(default_factory=dict)

    def in_force(self, now_ms: int) -> bool:
        """Return whether the override has not run out."""
        return self.expires_ms is None or now_ms < self.expires_ms


@dataclass(frozen=True, slots=True)
class LimitsInForce:
    """What decisions compare with: lines without grants, the grants, and until when it holds."""

    task: Mapping[Dimension, Lines]
    phases: Mapping[WorkPhase, Mapping[Dimension, Lines]]
    granted: Mapping[Dimension, int]
    expires_ms: int | None
    completion: Mapping[Dimension, int] = field(default_factory=dict)


def limits_in_force(
    snapshot: TaskLimits, overrides: Iterable[Override], now_ms: int
) -> LimitsInForce:
    """Return the limits of a task at `now_ms`.

    Of several multipliers the latest holds, as of several limits for one phase. An absolute limit
    is never multiplied (OVR-1), a grant neither. A new generation has all of it beyond what the
    generations before it used (G-18).
    """
    live = [override for override in overrides if override.in_force(now_ms)]
    factor = Decimal(1)
    absolute: dict[WorkPhase, Amounts] = {}
    granted: dict[Dimension, int] = {}
    used: dict[WorkPhase, list[Amounts]] = defaultdict(list)
    for override in live:
        if override.kind is OverrideKind.MULTIPLIER and override.factor is not None:
            factor = override.factor
        elif override.kind is OverrideKind.PHASE_LIMIT and override.phase is not None:
            absolute[override.phase] = override.amounts
        elif override.kind in ROOM_GIVING:
            for dimension, amount in override.amounts.items():
                granted[dimension] = granted.get(dimension, 0) + (amount or 0)
            for phase, amounts in override.used.items():
                used[phase].append(amounts)
    own = snapshot.profile.overrides.phases
    budgets = {
        phase: _changed(
            budget, factor, _laid_over(own.get(phase, _NOTHING), absolute.get(phase, _NOTHING))
        )
        for phase, budget in snapshot.budgets.items()
    }
    expiries = [override.expires_ms for override in live if override.expires_ms is not None]
    return LimitsInForce(
        task=task_lines(calculate_total_budget(budgets), snapshot.stop_loss),
        phases={
            phase: _beyond(used[phase], phase_lines(budget.limits, snapshot.stop_loss))
            for phase, budget in budgets.items()
        },
        granted=granted,
        expires_ms=min(expiries, default=None),
        completion=completion_lines(budgets, snapshot.stop_loss),
    )


def _beyond(used: Sequence[Amounts], lines: Mapping[Dimension, Lines]) -> dict[Dimension, Lines]:
    """Return a phase's lines, counted from what generations before had used of it."""
    past = {dimension: sum(one.get(dimension) or 0 for one in used) for dimension in lines}
    return {
        dimension: Lines(
            line.limit + past[dimension],
            line.cumulative + past[dimension],
            line.runaway + past[dimension],
        )
        for dimension, line in lines.items()
    }


def _laid_over(below: Amounts, above: Amounts) -> Amounts:
    """Return the absolute limits of a phase: `above`, and where that says nothing, `below`."""
    return Amounts(
        **{
            dimension.value: below.get(dimension) if amount is None else amount
            for dimension, amount in above.items()
        }
    )


def _changed(budget: PhaseBudget, factor: Decimal, absolute: Amounts) -> PhaseBudget:
    """Return a phase's budget: absolute where something says so, else calculated anew."""
    product = multiply(budget.multipliers.product, factor)

    def amount(base: int | Decimal, override: int | None) -> int:
        return ceil_product(base, product) if override is None else override

    nano_usd = absolute.nano_usd
    if budget.base.cost_usd is not None:
        nano_usd = amount(multiply(budget.base.cost_usd, Decimal(NANO_USD_PER_USD)), nano_usd)
    return replace(
        budget,
        token_limit=amount(budget.base.tokens, absolute.tokens),
        latency_limit_ms=amount(budget.base.latency_ms, absolute.latency_ms),
        nano_usd_limit=nano_usd,
        overridden=absolute != _NOTHING,
    )
