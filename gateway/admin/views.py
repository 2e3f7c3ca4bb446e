"""From a task's values to the answers' shapes: units, moments and words."""

from datetime import UTC, datetime
from decimal import Decimal

from gateway.admin import bodies
from gateway.core.budget import Dimension, PhaseBudget
from gateway.core.decision import Breach
from gateway.core.overrides import Override, OverrideKind
from gateway.store.task_view import (
    CallsAndTokens,
    Execution,
    PhaseView,
    Standing,
    Standings,
    StopLossState,
    TaskSummary,
    TaskView,
)

_SHARE_DIGITS = 4
_NANO_DIGITS = 9


def task_body(view: TaskView) -> bodies.TaskBody:
    """Return the full view of a task."""
    multiplier = _multiplier_in_force(view)
    return bodies.TaskBody(
        **vars(summary_body(view.summary)),
        as_of=iso(view.now_ms),
        generation=view.generation,
        config_hash=view.snapshot.config_hash,
        counters=_counters(view),
        raw_tokens=bodies.RawTokensBody.model_validate(view.raw_tokens),
        phases=[_phase(phase, multiplier) for phase in view.phases.values()],
        overrides=[override_body(override, view.now_ms) for override in view.overrides],
    )


def summary_body(task: TaskSummary) -> bodies.TaskSummaryBody:
    """Return what a list shows of a task."""
    return bodies.TaskSummaryBody(
        id=task.id,
        complexity=task.facts.complexity.value,
        importance=task.facts.importance.value,
        parents=list(task.facts.parents),
        created=iso(task.created_ms),
        created_ms=task.created_ms,
        last_call=iso_or_none(task.last_ms),
        current_phase=task.current_phase.value if task.current_phase else None,
        open_calls=task.open_calls,
        state=task.state.value,
        state_since=iso_or_none(task.state_ms),
        status=task.status.value,
        stop_loss=_stop_loss(task.stop_loss),
        totals=_totals(task.totals),
    )


def override_body(override: Override, now_ms: int) -> bodies.OverrideBody:
    """Return an override."""
    amounts = override.amounts
    return bodies.OverrideBody(
        kind=override.kind.value,
        amounts=bodies.AmountsBody(
            tokens=amounts.tokens,
            latency_ms=amounts.latency_ms,
            cost_usd=None if amounts.nano_usd is None else usd(amounts.nano_usd),
            nano_usd=amounts.nano_usd,
        ),
        phase=override.phase.value if override.phase else None,
        factor=None if override.factor is None else plain(override.factor),
        approver=override.approver,
        reason=override.reason,
        created=iso(override.created_ms),
        created_ms=override.created_ms,
        expires=iso_or_none(override.expires_ms),
        expires_ms=override.expires_ms,
        in_force=override.in_force(now_ms),
    )


# Parts --------------------------------------------------------------------------------------------


def _stop_loss(stop: StopLossState) -> bodies.StopLossBody:
    return bodies.StopLossBody(
        state=stop.state.value,
        code=stop.code or None,
        dimension=dimension_name(stop.dimension) if stop.dimension else None,
        since=iso_or_none(stop.since_ms),
        since_ms=stop.since_ms,
        episode=stop.episode,
        remediation=stop.remediation or None,
    )


def _totals(standings: Standings) -> bodies.Totals:
    return bodies.Totals(
        tokens=_total(standings[Dimension.TOKENS]),
        latency_ms=_total(standings[Dimension.LATENCY_MS]),
        cost_usd=_cost(standings[Dimension.NANO_USD]),
        calls=_total(standings[Dimension.CALLS]),
    )


def _total(standing: Standing) -> bodies.Total:
    return bodies.Total.model_validate({**_amounts(standing), **_judgement(standing)})


def _cost(standing: Standing) -> bodies.CostTotal:
    amounts = _amounts(standing)
    dollars = {name: None if amount is None else usd(amount) for name, amount in amounts.items()}
    return bodies.CostTotal.model_validate(
        {**dollars, **_judgement(standing), "nano_usd": bodies.NanoUsd.model_validate(amounts)}
    )


def _amounts(standing: Standing) -> dict[str, int | None]:
    return {
        "limit": standing.limit,
        "granted": standing.granted,
        "line": standing.line,
        "runaway_line": standing.runaway_line,
        "used": standing.used,
        "reserved": standing.reserved,
        "remaining": standing.remaining,
    }


def _judgement(standing: Standing) -> dict[str, object]:
    return {
        "percent": standing.percent,
        "status": standing.status.value if standing.status else None,
        "pressure": standing.pressure,
    }


def _counters(view: TaskView) -> bodies.CountersBody:
    used, estimated = view.summary.totals[Dimension.TOKENS].used, view.estimated
    share = min(1.0, round(estimated.tokens / used, _SHARE_DIGITS)) if used > 0 else 0.0
    return bodies.CountersBody(
        refused=view.refused,
        parallel_phases=view.parallel_phases,
        would_refuse=_calls_and_tokens(view.would_refuse),
        expired=_calls_and_tokens(view.expired),
        estimated=bodies.EstimatedBody(calls=estimated.calls, tokens=estimated.tokens, share=share),
    )


def _calls_and_tokens(counted: CallsAndTokens) -> bodies.CallsAndTokensBody:
    return bodies.CallsAndTokensBody(calls=counted.calls, tokens=counted.tokens)


def _phase(phase: PhaseView, multiplier: Decimal | None) -> bodies.PhaseBody:
    return bodies.PhaseBody(
        **vars(_totals(phase.standings)),
        phase=phase.budget.phase.value,
        not_started=not phase.executions,
        status=phase.status.value,
        factors=_factors(phase.budget, multiplier, absolute=phase.absolute),
        executions=[_execution(execution) for execution in phase.executions],
    )


def _factors(
    budget: PhaseBudget, multiplier: Decimal | None, *, absolute: bool
) -> bodies.FactorsBody:
    base, factors = budget.base, budget.multipliers
    return bodies.FactorsBody(
        base=bodies.BaseBody(
            tokens=base.tokens,
            latency_ms=base.latency_ms,
            cost_usd=None if base.cost_usd is None else plain(base.cost_usd),
        ),
        complexity=plain(factors.complexity),
        importance=plain(factors.importance),
        phase_weight=plain(factors.phase_weight),
        budget_multiplier=plain(factors.budget_multiplier),
        override_multiplier=None if multiplier is None else plain(multiplier),
        absolute=absolute,
    )


def _execution(execution: Execution) -> bodies.ExecutionBody:
    return bodies.ExecutionBody(
        number=execution.number,
        started=iso_or_none(execution.started_ms),
        ended=iso_or_none(execution.ended_ms),
        tokens=execution.tokens,
        latency_ms=execution.latency_ms,
        wall_ms=execution.wall_ms,
    )


def _multiplier_in_force(view: TaskView) -> Decimal | None:
    """Return the multiplier that holds: of several the latest (`core/overrides.py`)."""
    factors = [
        override.factor
        for override in view.overrides
        if override.kind is OverrideKind.MULTIPLIER and override.in_force(view.now_ms)
    ]
    return factors[-1] if factors else None


def breach_body(breach: Breach) -> bodies.BreachBody:
    """Return a line that a decision found crossed."""
    return bodies.BreachBody(
        scope=breach.scope.value,
        name=breach.name,
        dimension=dimension_name(breach.dimension),
        used=breach.used,
        allowed=breach.allowed,
        line=breach.line,
    )


# Units --------------------------------------------------------------------------------------------


def dimension_name(dimension: Dimension) -> str:
    """Return a dimension's name in requests and answers, where cost is in dollars."""
    return "cost_usd" if dimension is Dimension.NANO_USD else dimension.value


def amount_text(amount: int, dimension: Dimension) -> str:
    """Return an amount with its unit, exactly, for a message."""
    if dimension is Dimension.NANO_USD:
        return f"${usd(amount)}"
    unit = "ms" if dimension is Dimension.LATENCY_MS else dimension.value
    return f"{amount:,} {unit}"


def usd(nano_usd: int) -> str:
    """Return nano-dollars as dollars, exactly."""
    return plain(Decimal(nano_usd).scaleb(-_NANO_DIGITS))


def plain(number: Decimal) -> str:
    """Return a decimal without an exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(moment_ms: int) -> str:
    """Return a moment as ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(moment_ms: int | None) -> str | None:
    """Return a moment that may be unknown."""
    return None if moment_ms is None else iso(moment_ms)
