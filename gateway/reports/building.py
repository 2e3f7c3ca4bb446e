"""From a task's balances and the ledger's history to its report; what is missing is told."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from gateway.core.acts import TaskState
from gateway.core.budget import Dimension, StopLoss, percent
from gateway.core.overrides import Override
from gateway.ledger.report_facts import TaskHistory
from gateway.reports.advice import compare, find_anomalies, recommend, summarise
from gateway.reports.doubts import doubts_about_blocks
from gateway.reports.report import (
    Amount,
    Amounts,
    BlockedReport,
    BreachReport,
    Comparison,
    Factors,
    OverrideReport,
    PhaseReport,
    Report,
    StopLossReport,
)
from gateway.store.task_view import PhaseView, Standing, Standings, TaskView

_SHARE_DIGITS = 4
_NO_TASK = (
    "Neither the budget store nor the ledger has this task's balances: totals, limits and phases "
    "are missing."
)
_NO_HISTORY = (
    "The ledger could not be read: crossed lines, blocked attempts, sources of the figures and "
    "similar tasks are missing."
)
_NO_STORE = (
    "The budget store did not tell: figures are the ledger's, without calls that are still open "
    "and without what it has not written yet."
)


def build_report(
    task_id: str,
    view: TaskView | None,
    history: TaskHistory | None,
    now_ms: int,
    *,
    from_ledger: bool = False,
) -> Report:
    """Return the report of a task at `now_ms`; `from_ledger` tells where `view` is from.

    Without a view there are no figures, without a history nothing that happened: never an error.
    """
    totals = _amounts(view.summary.totals) if view else None
    status = view.summary.status.value if view else None
    stop = _stop_loss(view) if view else None
    completed = view is not None and view.summary.state is TaskState.COMPLETED
    phase = view.summary.current_phase if view else None
    phases = tuple(_phases(view, history)) if view else ()
    anomalies = find_anomalies(phases, None if completed or phase is None else phase.value)
    breaches = tuple(map(_breach, history.breaches)) if history else None
    blocked = _blocked(history, view)
    share = _estimated_share(view) if view else None
    similar = _compare(totals, history)
    advice = recommend(totals, status, stop, anomalies, share, similar)
    trouble = (None if breaches is None else len(breaches), blocked, len(anomalies))
    return Report(
        task_id=task_id,
        generated_at=iso(now_ms),
        mid_task=not completed,
        state=view.summary.state.value if view else None,
        current_phase=phase.value if phase else None,
        executive_summary=summarise(totals, status, phases, trouble, advice),
        budget_status=status,
        stop_loss=stop,
        totals=totals,
        phases=phases,
        complexity=view.summary.facts.complexity.value if view else None,
        importance=view.summary.facts.importance.value if view else None,
        config_hash=view.snapshot.config_hash if view else None,
        thresholds=_thresholds(view.snapshot.stop_loss) if view else {},
        data_source=_data_source(history),
        figures_from=None if view is None else "ledger" if from_ledger else "store",
        estimated_share=share,
        unpriced_calls=history.unpriced_calls if history else None,
        overrides=tuple(_override(one, now_ms) for one in view.overrides) if view else (),
        breaches=breaches,
        blocked=blocked,
        anomalies=anomalies,
        similar_tasks=similar,
        recommendations=advice,
        doubts=doubts_about_blocks(totals, phases, (stop, blocked), breaches or (), share, similar),
        unavailable=tuple(_missing(view, history, from_ledger=from_ledger)),
    )


def _missing(
    view: TaskView | None, history: TaskHistory | None, *, from_ledger: bool
) -> Iterable[str]:
    if view is None:
        yield _NO_TASK
    elif from_ledger:
        yield _NO_STORE
    if history is None:
        yield _NO_HISTORY


# Figures ------------------------------------------------------------------------------------------


def _amounts(standings: Standings) -> Amounts:
    return Amounts(
        tokens=_amount(standings[Dimension.TOKENS]),
        latency_ms=_amount(standings[Dimension.LATENCY_MS]),
        nano_usd=_amount(standings[Dimension.NANO_USD]),
        calls=_amount(standings[Dimension.CALLS]),
    )


def _amount(standing: Standing) -> Amount:
    return Amount(
        used=standing.used,
        limit=standing.limit,
        granted=standing.granted,
        allowed=standing.allowed,
        percent=standing.percent,
        status=standing.status.value if standing.status else None,
    )


def _phases(view: TaskView, history: TaskHistory | None) -> Iterable[PhaseReport]:
    estimated = history.estimated_calls if history else {}
    for phase in view.phases.values():
        name = phase.budget.phase.value
        amounts = _amounts(phase.standings)
        yield PhaseReport(
            phase=name,
            status=phase.status.value if phase.executions else "not_started",
            executions=len(phase.executions),
            tokens=amounts.tokens,
            latency_ms=amounts.latency_ms,
            nano_usd=amounts.nano_usd,
            factors=_factors(phase),
            estimated_calls=estimated.get(name, 0),
        )


def _factors(phase: PhaseView) -> Factors:
    base, factors = phase.budget.base, phase.budget.multipliers
    return Factors(
        base_tokens=base.tokens,
        base_latency_ms=base.latency_ms,
        complexity=plain(factors.complexity),
        importance=plain(factors.importance),
        phase_weight=plain(factors.phase_weight),
        budget_multiplier=plain(factors.budget_multiplier),
        absolute=phase.absolute,
    )


def _thresholds(stop_loss: StopLoss) -> dict[str, str]:
    names = ("cumulative_token", "cumulative_latency", "per_phase", "allow_completion", "runaway")
    return {f"{name}_threshold": plain(getattr(stop_loss, f"{name}_threshold")) for name in names}


def _stop_loss(view: TaskView) -> StopLossReport:
    stop = view.summary.stop_loss
    return StopLossReport(
        state=stop.state.value,
        code=stop.code or None,
        dimension=stop.dimension.value if stop.dimension else None,
        since=None if stop.since_ms is None else iso(stop.since_ms),
        episode=stop.episode,
        remediation=stop.remediation or None,
    )


def _estimated_share(view: TaskView) -> float:
    used = view.summary.totals[Dimension.TOKENS].used
    return min(1.0, round(view.estimated.tokens / used, _SHARE_DIGITS)) if used > 0 else 0.0


def _override(override: Override, now_ms: int) -> OverrideReport:
    amounts = override.amounts
    return OverrideReport(
        kind=override.kind.value,
        tokens=amounts.tokens,
        latency_ms=amounts.latency_ms,
        nano_usd=amounts.nano_usd,
        phase=override.phase.value if override.phase else None,
        factor=None if override.factor is None else plain(override.factor),
        created=iso(override.created_ms),
        expires=None if override.expires_ms is None else iso(override.expires_ms),
        in_force=override.in_force(now_ms),
        approver=override.approver,
        reason=override.reason,
    )


# History ------------------------------------------------------------------------------------------


def _breach(row: Mapping[str, object]) -> BreachReport:
    used, allowed, line = (int(str(row[name])) for name in ("used", "allowed", "line"))
    phase = row["phase"]
    return BreachReport(
        scope=str(row["scope"]),
        name=str(row["name"]),
        dimension=str(row["dimension"]),
        effect=str(row["effect"]),
        code=str(row["code"]),
        used=used,
        allowed=allowed,
        line=line,
        percent=percent(used, allowed),
        episode=int(str(row["episode"])),
        phase=None if phase is None else str(phase),
        call=str(row["call_id"]),
        at=iso(int(str(row["at_ms"]))),
    )


def _blocked(history: TaskHistory | None, view: TaskView | None) -> BlockedReport | None:
    """Return what was refused; how often the store knows too, and why only the ledger."""
    if history is not None:
        return BlockedReport(sum(history.blocked.values()), dict(history.blocked))
    return BlockedReport(view.refused, {}) if view is not None else None


def _data_source(history: TaskHistory | None) -> str | None:
    if history is None:
        return None
    counted = {source for source, tokens in history.sources.items() if tokens > 0}
    if counted == {"estimated"}:
        return "estimated"
    return "provider" if counted <= {"provider"} else "mixed"


def _compare(totals: Amounts | None, history: TaskHistory | None) -> Comparison | None:
    if history is None:
        return None
    return compare(
        totals.tokens.used if totals else None,
        [one.tokens for one in history.similar],
        [one.latency_ms for one in history.similar],
    )


# Texts --------------------------------------------------------------------------------------------


def plain(number: Decimal) -> str:
    """Return a decimal without an exponent, as it was written: `1.0`, `1.25`, `2`."""
    return f"{number:f}"


def iso(moment_ms: int) -> str:
    """Return a moment as ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
