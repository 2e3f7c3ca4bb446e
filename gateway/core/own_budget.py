"""`GET /v1/budget`: what an agent is told of its own task (GW-8)."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec
from msgspec import Struct

from gateway.core.budget import Dimension, Lines, TaskLimits, breach_status, percent
from gateway.core.identity import Route, Tags
from gateway.core.keys import GatewayKey
from gateway.core.limit_standing import LimitStanding
from gateway.core.phases import WorkPhase

OWN_BUDGET_PATH = b"/v1/budget"
_NANO_DIGITS = 9


class Figures(Struct, frozen=True):
    """One dimension: `allowed` is limit + grants, None without a limit; `line` what stops."""

    allowed: int | None
    line: int | None
    used: int = 0
    reserved: int = 0


Budgets = Mapping[Dimension, Figures]


class OwnBudget(Struct, frozen=True):
    """A task as its agent sees it: its current `phase`; `stop` is `ok`, or how it is stopped."""

    task: str
    state: str
    stop: str
    code: str
    phase: WorkPhase | None
    totals: Budgets
    phases: Mapping[WorkPhase, Budgets]


def asks_own_budget(method: bytes, route: Route) -> bool:
    """Return whether a request asks the gateway itself, not a provider that its URL names."""
    path = route.target.partition(b"?")[0]
    return method == b"GET" and path == OWN_BUDGET_PATH and not route.is_named


def unused_budget(task: str, limits: TaskLimits) -> OwnBudget:
    """Return the budget of a task that its first call will create."""
    phases = {phase: _unused(lines) for phase, lines in limits.phase_lines.items()}
    return OwnBudget(task, "new", "ok", "", None, _unused(limits.task_lines), phases)


def _unused(lines: Mapping[Dimension, Lines]) -> Budgets:
    unlimited = {dimension: Figures(None, None) for dimension in Dimension}
    limited = {name: Figures(line.limit, line.cumulative) for name, line in lines.items()}
    return {**unlimited, **limited}


class Asker(Struct, frozen=True):
    """Who asks, as policies look at a call (`core/match.py`): it names no model yet."""

    key: GatewayKey | None
    tags: Tags
    tenant: str
    models: tuple[str | None, ...] = ()


def budget_json(
    own: OwnBudget | None, phase: WorkPhase | None, limits: Sequence[LimitStanding]
) -> bytes:
    """Return the answer's body; `phase` is the one that was asked for, None for the current one.

    `own` is None for calls without a task: they have no budget. `limits` are those spend limits
    that hold for this caller's calls whatever their model.
    """
    spend = [_shown_limit(standing) for standing in limits]
    if own is None:
        return msgspec.json.encode({"task": None, "phase": None, "spend_limits": spend})
    phase = phase or own.phase
    task = {
        "id": own.task,
        "state": own.state,
        "stop_loss": own.stop,
        "code": own.code or None,
        "budgets": _shown(own.totals),
    }
    shown = None if phase is None else {"name": phase, "budgets": _shown(own.phases[phase])}
    return msgspec.json.encode({"task": task, "phase": shown, "spend_limits": spend})


def _shown_limit(standing: LimitStanding) -> dict[str, object]:
    """Return a spend limit with its hard lines; without one in a dimension, its soft line."""
    limit = standing.limit
    lines = {dimension: limit.line(dimension) for dimension in standing.settled}
    return {
        "policy": limit.policy,
        "of": limit.kind.value,
        "name": limit.name,
        "window": limit.window.value,
        "ends": standing.window.ends or None,
        "enforced": limit.enforced,
        "budgets": _shown(
            {
                dimension: Figures(
                    line, line, standing.settled[dimension], standing.held[dimension]
                )
                for dimension, line in lines.items()
                if line is not None
            }
        ),
    }


def _shown(budgets: Budgets) -> dict[str, dict[str, object]]:
    """Return budgets as they are sent: of money, amounts are exact decimals in dollars."""
    shown = {}
    for dimension, figures in budgets.items():
        amounts, judgement = _amounts(figures), _judgement(figures)
        if dimension is Dimension.NANO_USD:
            dollars = {name: None if n is None else _usd(n) for name, n in amounts.items()}
            shown["cost_usd"] = {**dollars, **judgement}
        else:
            shown[dimension.value] = {**amounts, **judgement}
    return shown


def _amounts(figures: Figures) -> dict[str, int | None]:
    allowed, used, reserved = figures.allowed, figures.used, figures.reserved
    remaining = None if allowed is None else max(0, allowed - used - reserved)
    return {"limit": allowed, "used": used, "reserved": reserved, "remaining": remaining}


def _judgement(figures: Figures) -> dict[str, object]:
    """Return status and pressure, which is used / limit in percent."""
    allowed, line, used = figures.allowed, figures.line, figures.used
    if allowed is None or line is None:
        return {"status": None, "pressure": None}
    return {"status": breach_status(used, allowed, line), "pressure": percent(used, allowed)}


def _usd(nano_usd: int) -> str:
    text = f"{Decimal(nano_usd).scaleb(-_NANO_DIGITS):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
