"""Questions to the ledger, one function each. They only read, and may be asked while it is written.

All take a connection and a tenant. Raised are the database's own errors; callers at the edge turn
them into LedgerError (`database.ledger_errors`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from gateway.core.budget import (
    BreachStatus,
    Dimension,
    TaskLimits,
    breach_status,
    floor_product,
)
from gateway.core.overrides import limits_in_force
from gateway.core.phases import WorkPhase
from gateway.ledger.schema import (
    AUDIT,
    BREACHES,
    CALLS,
    CARRIED,
    OVERRIDES,
    PHASE_EXECUTIONS,
    TASKS,
)
from gateway.ledger.sums import task_sums
from gateway.store.limits import decode_override

_ALL_NUMBERS = 1 << 62
_WORST_FIRST = (BreachStatus.EXCEEDED, BreachStatus.WARNING, BreachStatus.WITHIN)

Record = Mapping[str, Any]


# Calls --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are meant; None is any. Times are of a call's end: from `since_ms`, before
    `until_ms`.
    """

    task: str | None = None
    phase: str | None = None
    key: str | None = None
    complexity: str | None = None
    importance: str | None = None
    model: str | None = None
    state: str | None = None
    decision: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield what a row of `calls` must meet."""
        for name in ("task", "phase", "key", "complexity", "importance", "model", "state"):
            if (wanted := getattr(self, name)) is not None:
                yield CALLS.c[name] == wanted
        if self.decision is not None:
            yield CALLS.c.decision == self.decision
        if self.since_ms is not None:
            yield CALLS.c.at_ms >= self.since_ms
        if self.until_ms is not None:
            yield CALLS.c.at_ms < self.until_ms


EVERY_CALL = CallFilter()


def find_calls(
    connection: Connection,
    tenant: str,
    wanted: CallFilter = EVERY_CALL,
    *,
    limit: int,
    below_number: int | None = None,
) -> list[Record]:
    """Return calls, latest first; `below_number` goes on where a page ended."""
    chosen = [CALLS.c.tenant == tenant, *wanted.conditions()]
    if below_number is not None:
        chosen.append(CALLS.c.number < below_number)
    found = connection.execute(
        select(CALLS).where(*chosen).order_by(CALLS.c.number.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]


@dataclass(frozen=True, slots=True)
class Usage:
    """What some calls used. `calls` are those that were charged."""

    calls: int
    refused: int
    tokens: int
    nano_usd: int
    estimated_tokens: int
    unpriced_calls: int


def usage_of_calls(connection: Connection, tenant: str, wanted: CallFilter = EVERY_CALL) -> Usage:
    """Return sums over calls that retention has not deleted."""
    charged = CALLS.c.state.in_(("settled", "expired"))
    estimated = CALLS.c.usage_source == "estimated"
    row = connection.execute(
        select(
            _count(charged),
            _count(CALLS.c.state == "refused"),
            func.coalesce(func.sum(CALLS.c.tokens), 0),
            func.coalesce(func.sum(CALLS.c.nano_usd), 0),
            func.coalesce(func.sum(case((estimated, CALLS.c.tokens), else_=0)), 0),
            _count(and_(charged, CALLS.c.nano_usd.is_(None))),
        ).where(CALLS.c.tenant == tenant, *wanted.conditions())
    ).one()
    return Usage(*map(int, row))


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


# Tasks --------------------------------------------------------------------------------------------


def cumulative_usage(connection: Connection, tenant: str, task: str) -> dict[Dimension, int]:
    """Return what a task has used, children and all executions included (TRK-4, TRK-5)."""
    sums = task_sums(connection, tenant, [task], _ALL_NUMBERS).get(task, {})
    return {dimension: sums.get(f"{dimension.value}.S", 0) for dimension in Dimension}


@dataclass(frozen=True, slots=True)
class Standing:
    """One dimension of a task: used, L, G, C; without a limit these are None."""

    used: int
    limit: int | None = None
    granted: int = 0
    line: int | None = None

    @property
    def status(self) -> BreachStatus | None:
        """Return how far it stands: exceeded is above the line (G-3)."""
        if self.limit is None or self.line is None:
            return None
        return breach_status(self.used, self.limit + self.granted, self.line)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A task against its budget, under the overrides in force at a moment."""

    task: str
    created_ms: int
    config_hash: str | None
    standings: Mapping[Dimension, Standing]

    @property
    def status(self) -> BreachStatus:
        """Return the worst status of all dimensions."""
        return _worst(standing.status for standing in self.standings.values())


def budget_status(
    connection: Connection, tenant: str, task: str, now_ms: int
) -> BudgetStatus | None:
    """Return a task's status at `now_ms`; None for a task that the ledger does not know (TRK-4)."""
    found = connection.execute(
        select(TASKS).where(TASKS.c.tenant == tenant, TASKS.c.task == task)
    ).one_or_none()
    if found is None:
        return None
    used = cumulative_usage(connection, tenant, task)
    standings = {dimension: Standing(amount) for dimension, amount in used.items()}
    if found.snapshot is not None:
        overrides = [
            decode_override(row["document"]) for row in overrides_of(connection, tenant, task)
        ]
        in_force = limits_in_force(_limits(found.snapshot), overrides, now_ms)
        for dimension, lines in in_force.task.items():
            granted = in_force.granted.get(dimension, 0)
            standings[dimension] = Standing(
                used[dimension], lines.limit, granted, lines.cumulative + granted
            )
    return BudgetStatus(task, found.created_ms, found.config_hash, standings)


def overrides_of(connection: Connection, tenant: str, task: str) -> list[Record]:
    """Return a task's overrides, oldest first."""
    table = OVERRIDES.c
    found = connection.execute(
        select(OVERRIDES).where(table.tenant == tenant, table.task == task).order_by(table.number)
    )
    return [dict(row) for row in found.mappings()]


# Executions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a phase was worked on (TRK-1). Limits are those when it began, None if none.

    `ended_ms` is the end of its latest call. `calculation` holds the factors that made the limits
    of the snapshot (CAL-7), as text, so that no decimal is rounded.
    """

    task: str
    phase: str
    execution: int
    started_ms: int | None
    ended_ms: int | None
    tokens_used: int
    tokens_limit: int | None
    latency_ms: int
    latency_limit_ms: int | None
    tokens_estimated: bool
    status: BreachStatus
    complexity: str | None
    importance: str | None
    config_hash: str | None
    calculation: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions are meant; None is any. Times are of their latest call's end."""

    task: str | None = None
    phase: str | None = None
    complexity: str | None = None
    importance: str | None = None
    status: BreachStatus | None = None
    since_ms: int | None = None
    until_ms: int | None = None


EVERY_EXECUTION = ExecutionFilter()


def phase_breakdown(connection: Connection, tenant: str, task: str) -> list[Execution]:
    """Return a task's executions in the order in which they began (TRK-4)."""
    return find_executions(connection, tenant, ExecutionFilter(task=task))


def find_executions(
    connection: Connection, tenant: str, wanted: ExecutionFilter = EVERY_EXECUTION
) -> list[Execution]:
    """Return executions in the order in which they began; those without a call are left out."""
    carried = _carried(connection, tenant, wanted.task)
    limits: dict[str, TaskLimits] = {}
    found = []
    for row in connection.execute(_executions(tenant, wanted)).mappings():
        if row["task"] not in limits and row["snapshot"] is not None:
            limits[row["task"]] = _limits(row["snapshot"])
        execution = _execution(dict(row), limits.get(row["task"]), carried)
        if wanted.status is None or execution.status is wanted.status:
            found.append(execution)
    return sorted(found, key=lambda one: (one.started_ms or 0, one.task, one.phase))


def _executions(tenant: str, wanted: ExecutionFilter) -> Any:
    """Return the statement: calls summed up by execution, with its start, limits and task."""
    call, began, task = CALLS.c, PHASE_EXECUTIONS.c, TASKS.c
    estimated = case((call.usage_source == "estimated", 1), else_=0)
    group = (call.task, call.phase, call.execution)
    sums = (
        select(
            *group,
            func.min(call.started_ms).label("first_ms"),
            func.max(call.at_ms).label("ended_ms"),
            func.sum(call.tokens).label("tokens"),
            func.sum(call.phase_latency_ms).label("latency_ms"),
            func.max(estimated).label("estimated"),
        )
        .where(call.tenant == tenant, call.phase.is_not(None), call.execution.is_not(None))
        .where(*_chosen(wanted))
        .group_by(*group)
    ).subquery()
    same_execution = and_(
        began.tenant == tenant,
        began.task == sums.c.task,
        began.phase == sums.c.phase,
        began.execution == sums.c.execution,
    )
    statement = (
        select(
            sums,
            *(began.started_ms, began.tokens_limit, began.latency_limit_ms),
            *(task.complexity, task.importance, task.config_hash, task.snapshot),
        )
        .outerjoin(PHASE_EXECUTIONS, same_execution)
        .outerjoin(TASKS, and_(task.tenant == tenant, task.task == sums.c.task))
    )
    if wanted.since_ms is not None:
        statement = statement.where(sums.c.ended_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        statement = statement.where(sums.c.ended_ms < wanted.until_ms)
    return statement


def _chosen(wanted: ExecutionFilter) -> Iterator[ColumnElement[bool]]:
    for name in ("task", "phase", "complexity", "importance"):
        if (text := getattr(wanted, name)) is not None:
            yield CALLS.c[name] == text


def _carried(connection: Connection, tenant: str, task: str | None) -> dict[tuple[str, str], int]:
    """Return what retention has carried forward of executions, by task and field."""
    table = CARRIED.c
    chosen = [table.tenant == tenant, table.field.like("x.%")]
    if task is not None:
        chosen.append(table.task == task)
    found = connection.execute(select(table.task, table.field, table.amount).where(*chosen))
    return {(task, field): amount for task, field, amount in found}


def _execution(
    row: Mapping[str, Any], limits: TaskLimits | None, carried: Mapping[tuple[str, str], int]
) -> Execution:
    task, field = row["task"], f"x.{row['phase']}.{row['execution']}."
    tokens = int(row["tokens"]) + carried.get((task, f"{field}tokens"), 0)
    latency_ms = int(row["latency_ms"]) + carried.get((task, f"{field}latency_ms"), 0)
    return Execution(
        task=task,
        phase=row["phase"],
        execution=row["execution"],
        started_ms=row["started_ms"] or row["first_ms"],
        ended_ms=row["ended_ms"],
        tokens_used=tokens,
        tokens_limit=row["tokens_limit"],
        latency_ms=latency_ms,
        latency_limit_ms=row["latency_limit_ms"],
        tokens_estimated=bool(row["estimated"]),
        status=_worst(
            _phase_status(used, limit, limits)
            for used, limit in (
                (tokens, row["tokens_limit"]),
                (latency_ms, row["latency_limit_ms"]),
            )
        ),
        complexity=row["complexity"],
        importance=row["importance"],
        config_hash=row["config_hash"],
        calculation=_calculation(limits, WorkPhase(row["phase"])) if limits else {},
    )


def _phase_status(used: int, limit: int | None, limits: TaskLimits | None) -> BreachStatus | None:
    """Return a phase's status: exceeded above its threshold (TRK-2)."""
    if limit is None or limits is None:
        return None
    line = floor_product(limit, limits.stop_loss.per_phase_threshold)
    return breach_status(used, limit, line)


def _calculation(limits: TaskLimits, phase: WorkPhase) -> Mapping[str, str]:
    budget = limits.budgets[phase]
    factors = budget.multipliers
    return {
        "base_tokens": str(budget.base.tokens),
        "base_latency_ms": str(budget.base.latency_ms),
        "complexity": str(factors.complexity),
        "importance": str(factors.importance),
        "phase_weight": str(factors.phase_weight),
        "budget_multiplier": str(factors.budget_multiplier),
    }


def _worst(statuses: Iterator[BreachStatus | None]) -> BreachStatus:
    seen = set(statuses)
    return next((status for status in _WORST_FIRST if status in seen), BreachStatus.WITHIN)


def _limits(snapshot: str) -> TaskLimits:
    return msgspec.json.decode(snapshot, type=TaskLimits)


# Breaches, audit ----------------------------------------------------------------------------------


def find_breaches(
    connection: Connection, tenant: str, task: str | None = None, effect: str | None = None
) -> list[Record]:
    """Return crossed lines, oldest first; `effect` is flag, refuse or trip."""
    table = BREACHES.c
    chosen = [table.tenant == tenant]
    if task is not None:
        chosen.append(table.task == task)
    if effect is not None:
        chosen.append(table.effect == effect)
    found = connection.execute(select(BREACHES).where(*chosen).order_by(table.number))
    return [dict(row) for row in found.mappings()]


def audit_entries(
    connection: Connection, tenant: str, *, limit: int, below_number: int | None = None
) -> list[Record]:
    """Return who changed what and why, latest first."""
    chosen = [AUDIT.c.tenant == tenant]
    if below_number is not None:
        chosen.append(AUDIT.c.number < below_number)
    found = connection.execute(
        select(AUDIT).where(*chosen).order_by(AUDIT.c.number.desc()).limit(limit)
    )
    return [dict(row) for row in found.mappings()]
