"""Figures of a period, from calls, tasks, breaches and verdicts (`core/statistics.py`).

Every statement is bound to the period by an index; percentiles are taken in the database, so that
memory does not grow with the ledger. What retention has deleted is not counted.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, and_, case, func, or_, select

from gateway.core.budget import Dimension
from gateway.core.statistics import (
    PERCENTILES,
    Blocks,
    CallCounts,
    Savings,
    Spread,
    Statistics,
    TaskCounts,
    Trend,
    change_percent,
    percent,
)
from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger.executions import limits_of
from gateway.ledger.schema import (
    ANCESTRY,
    AUDIT,
    BREACHES,
    CALLS,
    PHASE_EXECUTIONS,
    REJECTED,
    TASKS,
)
from gateway.ledger.verdicts import verdicts

_WEEK_MS = 7 * 86_400_000
_STUCK_MS = 4 * 3_600_000
_CHARGED = CALLS.c.state.in_(("settled", "expired"))


def read_statistics(
    url: str, tenant: str, since_ms: int, until_ms: int, by_complexity: bool
) -> Statistics:
    """Return a period's figures; connects and waits for the database. Raises LedgerError."""
    with ledger_errors(), open_ledger(url) as connection:
        return statistics(connection, tenant, since_ms, until_ms, by_complexity=by_complexity)


def statistics(
    connection: Connection,
    tenant: str,
    since_ms: int,
    until_ms: int,
    *,
    by_complexity: bool = False,
) -> Statistics:
    """Return the figures of tasks that began, and of calls that ended, in a period."""
    ended = (CALLS.c.tenant == tenant, CALLS.c.at_ms >= since_ms, CALLS.c.at_ms < until_ms)
    rejected = select(func.count()).select_from(REJECTED).where(REJECTED.c.tenant == tenant)
    return Statistics(
        since_ms,
        until_ms,
        tasks=_tasks(connection, tenant, since_ms, until_ms),
        calls=_calls(connection, ended),
        blocks=_blocks(connection, tenant, since_ms, until_ms),
        spreads=_spreads(connection, ended, by_complexity),
        trends=_trends(connection, tenant, until_ms),
        savings=_savings(connection, tenant, since_ms, until_ms),
        stuck_tasks=_stuck(connection, tenant, since_ms, until_ms),
        rejected_entries=int(connection.scalar(rejected) or 0),
    )


def _tasks(connection: Connection, tenant: str, since_ms: int, until_ms: int) -> TaskCounts:
    table = TASKS.c
    began = (
        *(table.tenant == tenant, table.created_ms >= since_ms, table.created_ms < until_ms),
        table.snapshot.is_not(None),
    )
    chosen = select(table.task).where(*began)
    used: dict[str, int] = {}
    would_refuse: set[str] = set()
    flagged = func.max(case((CALLS.c.would_refuse.is_(True), 1), else_=0))
    own = select(CALLS.c.task, func.sum(CALLS.c.tokens), flagged).group_by(CALLS.c.task)
    for task, tokens, flag in connection.execute(
        own.where(CALLS.c.tenant == tenant, CALLS.c.task.in_(chosen))
    ):
        used[task] = int(tokens)
        if flag:
            would_refuse.add(task)
    of_child = and_(CALLS.c.tenant == ANCESTRY.c.tenant, CALLS.c.task == ANCESTRY.c.task)
    for task, tokens in connection.execute(
        select(ANCESTRY.c.ancestor, func.sum(CALLS.c.tokens))
        .join(CALLS, of_child)
        .where(ANCESTRY.c.tenant == tenant, ANCESTRY.c.ancestor.in_(chosen))
        .group_by(ANCESTRY.c.ancestor)
    ):
        used[task] = used.get(task, 0) + int(tokens)
    stopped = connection.scalar(
        select(func.count(BREACHES.c.name.distinct())).where(
            BREACHES.c.tenant == tenant, BREACHES.c.effect == "trip", BREACHES.c.name.in_(chosen)
        )
    )
    tasks, within = 0, 0
    importance: dict[str, int] = {}
    for task, tier, snapshot in connection.execute(
        select(table.task, table.importance, table.snapshot).where(*began)
    ):
        tasks += 1
        limit = _token_limit(snapshot)
        within += limit is None or used.get(task, 0) <= limit
        importance[tier or "medium"] = importance.get(tier or "medium", 0) + 1
    return TaskCounts(tasks, within, int(stopped or 0), len(would_refuse), importance)


@lru_cache(maxsize=1024)
def _token_limit(snapshot: str) -> int | None:
    """Return the task's limit when it began; tasks of the same tiers have the same snapshot."""
    lines = limits_of(snapshot).task_lines.get(Dimension.TOKENS)
    return None if lines is None else lines.limit


def _calls(connection: Connection, ended: Sequence[ColumnElement[bool]]) -> CallCounts:
    table = CALLS.c
    calls = would_refuse = tokens = nano_usd = 0
    refused: dict[str, int] = {}
    sources: dict[str, int] = {"provider": 0, "estimated": 0, "none": 0}
    flagged = func.sum(case((table.would_refuse.is_(True), 1), else_=0))
    for state, code, source, number, flags, used, money in connection.execute(
        select(
            *(table.state, table.code, table.usage_source, func.count(), flagged),
            *(func.sum(table.tokens), func.coalesce(func.sum(table.nano_usd), 0)),
        )
        .where(*ended)
        .group_by(table.state, table.code, table.usage_source)
    ):
        would_refuse += int(flags)
        tokens, nano_usd = tokens + int(used), nano_usd + int(money)
        if state == "refused":
            refused[code or "-"] = refused.get(code or "-", 0) + number
        elif state in ("settled", "expired"):
            calls += number
            sources[source or "none"] = sources.get(source or "none", 0) + number
    return CallCounts(calls, would_refuse, dict(sorted(refused.items())), tokens, nano_usd, sources)


def _blocks(connection: Connection, tenant: str, since_ms: int, until_ms: int) -> list[Blocks]:
    table = BREACHES.c
    of_task = and_(TASKS.c.tenant == table.tenant, TASKS.c.task == table.task)
    blocked = {
        call_id: importance
        for call_id, importance in connection.execute(
            select(table.call_id, TASKS.c.importance)
            .outerjoin(TASKS, of_task)
            .where(table.tenant == tenant, table.effect.in_(("refuse", "trip")))
            .where(table.at_ms >= since_ms, table.at_ms < until_ms)
            .distinct()
        )
    }
    judged = verdicts(connection, tenant)
    counts: dict[str, list[int]] = {}
    for call_id, importance in blocked.items():
        row = counts.setdefault(importance or "medium", [0, 0, 0])
        row[0] += 1
        verdict = judged.get(call_id)
        row[1] += verdict == "false_positive"
        row[2] += verdict == "justified"
    return [
        Blocks(tier, blocks, false, right, percent(false, blocks) if false + right else None)
        for tier, (blocks, false, right) in sorted(counts.items())
    ]


def _spreads(
    connection: Connection, ended: Sequence[ColumnElement[bool]], by_complexity: bool
) -> list[Spread]:
    table = CALLS.c
    executions = (
        select(
            *(table.phase, func.max(table.complexity).label("complexity")),
            func.sum(table.tokens).label("tokens"),
            func.sum(table.phase_latency_ms).label("latency_ms"),
        )
        .where(*ended, _CHARGED, table.phase.is_not(None), table.execution.is_not(None))
        .group_by(table.task, table.phase, table.execution)
        .subquery()
    )
    group = ("phase", "complexity") if by_complexity else ("phase",)
    tokens = percentiles(connection, executions, group, "tokens")
    latency = percentiles(connection, executions, group, "latency_ms")
    return [
        Spread(key[0], key[1] if by_complexity else None, count, values, latency[key][1])
        for key, (count, values) in sorted(tokens.items(), key=str)
    ]


def percentiles(
    connection: Connection,
    rows: Subquery,
    group: Sequence[str],
    value: str,
    wanted: Sequence[int] = PERCENTILES,
) -> dict[tuple[Any, ...], tuple[int, dict[str, int]]]:
    """Return, by group, how many rows there are, and percentiles by nearest rank."""
    columns = [rows.c[name] for name in group]
    place = func.row_number().over(partition_by=columns, order_by=rows.c[value])
    size = func.count().over(partition_by=columns)
    ranked = select(
        *columns, rows.c[value].label("value"), place.label("place"), size.label("size")
    ).subquery()
    ranks = {one: (ranked.c.size * one + 99) // 100 for one in wanted}
    found: dict[tuple[Any, ...], tuple[int, dict[int, int]]] = {}
    for *key, amount, at, count in connection.execute(
        select(ranked).where(or_(*(ranked.c.place == rank for rank in ranks.values())))
    ):
        found.setdefault(tuple(key), (int(count), {}))[1][int(at)] = int(amount)
    return {
        key: (count, {f"p{one}": values[(count * one + 99) // 100] for one in wanted})
        for key, (count, values) in found.items()
    }


def _trends(connection: Connection, tenant: str, until_ms: int) -> list[Trend]:
    def medians(since_ms: int, before_ms: int) -> dict[tuple[Any, ...], int]:
        table = CALLS.c
        rows = (
            select(table.model, table.phase, table.tokens)
            .where(table.tenant == tenant, table.at_ms >= since_ms, table.at_ms < before_ms)
            .where(_CHARGED, table.model.is_not(None), table.phase.is_not(None))
            .subquery()
        )
        found = percentiles(connection, rows, ("model", "phase"), "tokens", (50,))
        return {key: values["p50"] for key, (_, values) in found.items()}

    now = medians(until_ms - _WEEK_MS, until_ms)
    before = medians(until_ms - 2 * _WEEK_MS, until_ms - _WEEK_MS)
    return [
        Trend(key[0], key[1], before[key], now[key], change_percent(before[key], now[key]))
        for key in sorted(now.keys() & before.keys())
    ]


def _savings(connection: Connection, tenant: str, since_ms: int, until_ms: int) -> Savings:
    def figures(first_ms: int, end_ms: int) -> tuple[float | None, int | None]:
        table = CALLS.c
        chosen = (table.tenant == tenant, table.at_ms >= first_ms, table.at_ms < end_ms, _CHARGED)
        tasks, tokens = connection.execute(
            select(func.count(table.task.distinct()), func.sum(table.tokens)).where(*chosen)
        ).one()
        latencies = (
            select(table.tenant, table.latency_ms)
            .where(*chosen, table.latency_ms.is_not(None))
            .subquery()
        )
        found = percentiles(connection, latencies, ("tenant",), "latency_ms", (95,))
        p95 = found[tenant,][1]["p95"] if found else None
        return (round(int(tokens) / tasks, 2) if tasks else None), p95

    before = figures(2 * since_ms - until_ms, since_ms)
    now = figures(since_ms, until_ms)
    return Savings(
        *(before[0], now[0], change_percent(before[0], now[0])),
        *(before[1], now[1], change_percent(before[1], now[1])),
    )


def _stuck(connection: Connection, tenant: str, since_ms: int, until_ms: int) -> int:
    """Count tasks in the same phase execution for over four hours, not ended (PM4)."""
    table = PHASE_EXECUTIONS.c
    ended = (
        select(AUDIT.c.number)
        .where(AUDIT.c.tenant == tenant, AUDIT.c.subject == table.task)
        .where(AUDIT.c.action.in_(("task.complete", "task.kill")))
        .exists()
    )
    latest = (
        select(table.task)
        .where(table.tenant == tenant, table.started_ms < until_ms, ~ended)
        .group_by(table.task)
        .having(func.max(table.started_ms).between(since_ms, until_ms - _STUCK_MS))
        .subquery()
    )
    return int(connection.scalar(select(func.count()).select_from(latest)) or 0)
