"""Questions to the ledger, one function each. They only read, and may be asked while it is written.

Those about executions are in `executions`, pages of breaches and audit entries in `pages`. All take
a connection and a tenant. Raised are the database's own errors; callers at the edge turn them into
LedgerError (`database.ledger_errors`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from gateway.core.budget import BreachStatus, Dimension, breach_status
from gateway.core.overrides import limits_in_force
from gateway.ledger.executions import limits_of, worst_of
from gateway.ledger.schema import BREACHES, CALLS, OVERRIDES, TASKS
from gateway.ledger.sums import task_sums
from gateway.store.limits import decode_override

_ALL_NUMBERS = 1 << 62

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
        return worst_of(standing.status for standing in self.standings.values())


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
        in_force = limits_in_force(limits_of(found.snapshot), overrides, now_ms)
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


# Breaches -----------------------------------------------------------------------------------------


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
