"""Base budgets from what phases have used (PM1): `tollgate calibrate`.

Each execution's tokens and active time are divided by the factors of its task's snapshot, which
leaves the base that would have been just enough; the base proposed is a percentile of those. What
a phase used is known of ended calls alone, and what retention has deleted is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection

from gateway.core.budget import BaseBudget, PhaseBudgetConfig
from gateway.core.phases import WorkPhase
from gateway.core.statistics import nearest_rank
from gateway.ledger.executions import Execution, ExecutionFilter, find_executions

PERCENTILES = (50, 75, 90, 99)
_FACTORS = ("complexity", "importance", "phase_weight", "budget_multiplier")


@dataclass(frozen=True, slots=True)
class PhaseUse:
    """Bases that executions of a phase needed, by percentile. `enough`: they may be gone by."""

    phase: WorkPhase
    executions: int
    enough: bool
    tokens: Mapping[int, int]
    latency_ms: Mapping[int, int]


def read_uses(
    connection: Connection, tenant: str, since_ms: int | None, until_ms: int | None, least: int
) -> list[PhaseUse]:
    """Return what each phase needed; fewer than `least` executions are not enough."""
    wanted = ExecutionFilter(since_ms=since_ms, until_ms=until_ms)
    needed: dict[str, list[tuple[int, int]]] = {}
    for execution in find_executions(connection, tenant, wanted):
        if execution.calculation and execution.tokens_used > 0:
            needed.setdefault(execution.phase, []).append(_base_needed(execution))
    return [_use(phase, needed.get(phase.value, []), least) for phase in WorkPhase]


def _base_needed(execution: Execution) -> tuple[int, int]:
    factor = Decimal(1)
    for name in _FACTORS:
        factor *= Decimal(execution.calculation[name])
    return _needed(execution.tokens_used, factor), _needed(execution.latency_ms, factor)


def _needed(used: int, factor: Decimal) -> int:
    whole, rest = divmod(Decimal(used), factor)
    return int(whole) + (rest > 0)


def _use(phase: WorkPhase, needed: Sequence[tuple[int, int]], least: int) -> PhaseUse:
    tokens = sorted(one for one, _ in needed)
    latency = sorted(one for _, one in needed)
    return PhaseUse(
        phase,
        len(needed),
        bool(needed) and len(needed) >= least,
        {one: nearest_rank(tokens, one) for one in PERCENTILES} if needed else {},
        {one: nearest_rank(latency, one) for one in PERCENTILES} if needed else {},
    )


def proposed(
    config: PhaseBudgetConfig, uses: Sequence[PhaseUse], percentile: int
) -> dict[WorkPhase, BaseBudget]:
    """Return the base budgets to try; a phase without enough executions keeps its own."""
    return {
        use.phase: BaseBudget(
            max(1, use.tokens[percentile]),
            max(1, use.latency_ms[percentile]),
            config.base_budgets[use.phase].cost_usd,
        )
        if use.enough
        else config.base_budgets[use.phase]
        for use in uses
    }


def document(config: PhaseBudgetConfig, uses: Sequence[PhaseUse], percentile: int) -> str:
    """Return a whole `phase_budgets.yaml`, all else as in `config`; what it is from is comments."""
    bases = proposed(config, uses, percentile)
    stop, weights = config.stop_loss, config.token_weights
    lines = [
        f"# Proposed by `tollgate calibrate`: base_budgets are p{percentile}.",
        "base_budgets:",
    ]
    for use in uses:
        base = bases[use.phase]
        cost = "" if base.cost_usd is None else f", cost_usd: {base.cost_usd}"
        lines += [
            f"  # {_told(use)}",
            f"  {use.phase.value}: {{tokens: {base.tokens}, latency_ms: {base.latency_ms}{cost}}}",
        ]
    for section, factors in (
        ("complexity_multipliers", config.complexity_multipliers),
        ("importance_multipliers", config.importance_multipliers),
        ("phase_weights", config.phase_weights),
    ):
        lines += [f"{section}:", *(f"  {term.value}: {value}" for term, value in factors.items())]
    lines += [
        "stop_loss:",
        f"  enabled: {str(stop.enabled).lower()}",
        f"  cumulative_token_threshold: {stop.cumulative_token_threshold}",
        f"  cumulative_latency_threshold: {stop.cumulative_latency_threshold}",
        f"  per_phase_threshold: {stop.per_phase_threshold}",
        f"  allow_completion_threshold: {stop.allow_completion_threshold}",
        f"  runaway_threshold: {stop.runaway_threshold}",
        f"  latency_basis: {stop.latency_basis}",
        "token_weights:",
        *(
            f"  {kind}: {getattr(weights, kind)}"
            for kind in ("input", "cached_read", "cache_write", "output")
        ),
    ]
    return "\n".join(lines) + "\n"


def _told(use: PhaseUse) -> str:
    if not use.enough:
        return f"{use.executions} executions are too few: unchanged"
    shown = ", ".join(f"p{one} {use.tokens[one]}/{use.latency_ms[one]}" for one in PERCENTILES)
    return f"{use.executions} executions, tokens/ms: {shown}"
