"""Begins and ends of phase executions and of tasks that telemetry has not told yet (MET-1, SL-11).

Each is marked as told before it is: what dies in between is not told, and nothing is told twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, exists, func, or_, select, update

from gateway.core.budget import BreachStatus, Dimension, breach_status
from gateway.ledger.database import upsert
from gateway.ledger.executions import Execution, limits_of, phase_breakdown, worst_of
from gateway.ledger.schema import AUDIT, CALLS, PHASE_EXECUTIONS, TASKS, TOLD

_BEGUN, _ENDED = 1, 2
_COMPLETE = "task.complete"


@dataclass(frozen=True, slots=True)
class Begin:
    """A phase's execution that has begun, with the limits in force then; None where none is."""

    task: str
    phase: str
    execution: int
    started_ms: int
    tokens_limit: int | None
    latency_limit_ms: int | None
    nano_usd_limit: int | None
    complexity: str | None
    importance: str | None


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """A completed task: what its life so far came to. `number` is that of the completion."""

    task: str
    number: int
    at_ms: int
    started_ms: int
    tokens: int
    latency_ms: int
    status: BreachStatus
    complexity: str | None
    importance: str | None


_SELECT_BEGINS = select(
    PHASE_EXECUTIONS.c.task,
    PHASE_EXECUTIONS.c.phase,
    PHASE_EXECUTIONS.c.execution,
    PHASE_EXECUTIONS.c.started_ms,
    PHASE_EXECUTIONS.c.tokens_limit,
    PHASE_EXECUTIONS.c.latency_limit_ms,
    PHASE_EXECUTIONS.c.nano_usd_limit,
    TASKS.c.complexity,
    TASKS.c.importance,
).outerjoin_from(
    PHASE_EXECUTIONS,
    TASKS,
    and_(TASKS.c.tenant == PHASE_EXECUTIONS.c.tenant, TASKS.c.task == PHASE_EXECUTIONS.c.task),
)


def _begins(connection: Connection, tenant: str, task: str) -> list[Begin]:
    """Return a task's executions of which the begin was told, and the end was not."""
    began = PHASE_EXECUTIONS.c
    chosen = (began.tenant == tenant, began.task == task, began.told == _BEGUN)
    rows = connection.execute(_SELECT_BEGINS.where(*chosen).order_by(began.started_ms))
    return [Begin(*row) for row in rows]


def take_begins(connection: Connection, tenant: str, most: int) -> list[Begin]:
    """Return executions whose begin was not told, and mark them."""
    began = PHASE_EXECUTIONS.c
    statement = _SELECT_BEGINS.where(began.told.is_(None), began.tenant == tenant)
    rows = connection.execute(statement.order_by(began.started_ms).limit(most))
    begins = [Begin(*row) for row in rows]
    for begin in begins:
        _mark(connection, tenant, begin.task, begin.phase, begin.execution, _BEGUN)
    connection.commit()
    return begins


def ended_perhaps(connection: Connection, tenant: str, most: int) -> list[str]:
    """Return tasks with an execution that may have ended: no longer their only work.

    Another began later, or somebody ended it, or its task.
    """
    began, later, act = PHASE_EXECUTIONS.c, PHASE_EXECUTIONS.alias().c, AUDIT.c
    another = exists().where(
        later.tenant == began.tenant, later.task == began.task, later.started_ms > began.started_ms
    )
    somebody = exists().where(
        act.tenant == began.tenant,
        act.subject == began.task,
        act.action.in_((_COMPLETE, "phase.end")),
        act.at_ms >= began.started_ms,
    )
    statement = (
        select(began.task)
        .where(began.told == _BEGUN, began.tenant == tenant, or_(another, somebody))
        .group_by(began.task)
        .order_by(func.min(began.started_ms))
        .limit(most)
    )
    return list(connection.scalars(statement))


def untold_executions(connection: Connection, tenant: str, task: str) -> list[Execution]:
    """Return a task's executions whose end was not told, as the ledger has them by now.

    One that somebody started and ended without a call used nothing.
    """
    begins = {(one.phase, one.execution): one for one in _begins(connection, tenant, task)}
    found = phase_breakdown(connection, tenant, task)
    with_calls = {(one.phase, one.execution): one for one in found}
    return [with_calls.get(key) or _without_calls(begin) for key, begin in begins.items()]


def _without_calls(begin: Begin) -> Execution:
    return Execution(
        task=begin.task,
        phase=begin.phase,
        execution=begin.execution,
        started_ms=begin.started_ms,
        ended_ms=begin.started_ms,
        tokens_used=0,
        tokens_limit=begin.tokens_limit,
        latency_ms=0,
        latency_limit_ms=begin.latency_limit_ms,
        tokens_estimated=False,
        status=BreachStatus.WITHIN,
        complexity=begin.complexity,
        importance=begin.importance,
        config_hash=None,
        calculation={},
    )


def mark_ended(connection: Connection, tenant: str, ended: Sequence[Execution]) -> None:
    """Mark executions whose end is going to be told."""
    for one in ended:
        _mark(connection, tenant, one.task, one.phase, one.execution, _ENDED)
    connection.commit()


def take_task_ends(connection: Connection, tenant: str, most: int) -> list[TaskEnd]:
    """Return tasks that were completed since this was asked last, and mark them."""
    act = AUDIT.c
    told = select(TOLD.c.number).where(TOLD.c.tenant == tenant)
    last = connection.scalar(told) or 0
    statement = (
        select(act.subject, act.number, act.at_ms)
        .where(act.tenant == tenant, act.action == _COMPLETE, act.number > last)
        .order_by(act.number)
        .limit(most)
    )
    rows = list(connection.execute(statement))
    ends = [_task_end(connection, tenant, *row) for row in rows]
    if rows:
        _remember(connection, tenant, rows[-1].number)
    connection.commit()
    return ends


def _task_end(connection: Connection, tenant: str, task: str, number: int, at_ms: int) -> TaskEnd:
    """Return what a task's generation came to; what its children used counts in its budget only."""
    call = CALLS.c
    life = func.coalesce(call.generation, 1)
    latest = (
        select(func.max(life)).where(call.tenant == tenant, call.task == task).scalar_subquery()
    )
    sums = select(
        func.coalesce(func.sum(call.tokens), 0),
        func.coalesce(func.sum(call.task_latency_ms), 0),
        func.coalesce(func.sum(call.nano_usd), 0),
        func.min(call.started_ms),
    ).where(call.tenant == tenant, call.task == task, life == latest)
    tokens, latency_ms, nano_usd, started_ms = connection.execute(sums).one()
    known = select(TASKS.c.complexity, TASKS.c.importance, TASKS.c.snapshot).where(
        TASKS.c.tenant == tenant, TASKS.c.task == task
    )
    complexity, importance, snapshot = connection.execute(known).one_or_none() or (None, None, None)
    used = {Dimension.TOKENS: int(tokens), Dimension.NANO_USD: int(nano_usd)}
    return TaskEnd(
        task=task,
        number=number,
        at_ms=at_ms,
        started_ms=started_ms or at_ms,
        tokens=int(tokens),
        latency_ms=int(latency_ms),
        status=_status(used, snapshot),
        complexity=complexity,
        importance=importance,
    )


def _status(used: dict[Dimension, int], snapshot: str | None) -> BreachStatus:
    """Return the worst status of tokens and money against the snapshot's lines."""
    lines = limits_of(snapshot).task_lines if snapshot else {}
    return worst_of(
        breach_status(used[dimension], line.limit, line.cumulative)
        for dimension, line in lines.items()
        if dimension in used
    )


def _mark(
    connection: Connection, tenant: str, task: str, phase: str, execution: int, told: int
) -> None:
    began = PHASE_EXECUTIONS.c
    connection.execute(
        update(PHASE_EXECUTIONS)
        .where(
            began.tenant == tenant,
            began.task == task,
            began.phase == phase,
            began.execution == execution,
        )
        .values(told=told)
    )


def _remember(connection: Connection, tenant: str, number: int) -> None:
    insert = upsert(connection, TOLD).values(tenant=tenant, number=number)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["tenant"], set_={"number": number})
    )
