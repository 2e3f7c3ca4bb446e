"""Executions: each time that a phase was worked on, against its limits (TRK-1, TRK-4).

What an execution used is summed up from its calls; what retention has deleted of them is added.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from gateway.core.budget import BreachStatus, TaskLimits, breach_status, floor_product
from gateway.core.phases import WorkPhase
from gateway.ledger.schema import CALLS, CARRIED, PHASE_EXECUTIONS, TASKS

_WORST_FIRST = (BreachStatus.EXCEEDED, BreachStatus.WARNING, BreachStatus.WITHIN)


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
            limits[row["task"]] = limits_of(row["snapshot"])
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
        status=worst_of(
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


def worst_of(statuses: Iterator[BreachStatus | None]) -> BreachStatus:
    """Return the worst of some statuses; within if there is none."""
    seen = set(statuses)
    return next((status for status in _WORST_FIRST if status in seen), BreachStatus.WITHIN)


def limits_of(snapshot: str) -> TaskLimits:
    """Return the limits of a task's snapshot."""
    return msgspec.json.decode(snapshot, type=TaskLimits)
