"""A task's budget, and the spend limits beside it, for its own agent (`core/own_budget.py`)."""

import asyncio
from collections.abc import Sequence

from gateway.core.limit_standing import LimitStanding
from gateway.core.own_budget import Budgets, Figures, OwnBudget
from gateway.core.spend_limits import SpendLimit
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask, server_ms
from gateway.store.task_view import Standings
from gateway.store.tasks import read_task
from gateway.store.windows import WINDOW_FIELDS, WindowClock, window_key


async def read_budget(
    connection: StoreConnection, names: TenantKeys, task: str
) -> OwnBudget | None:
    """Return where a task stands now; None if there is no such task. Raises StoreError."""
    try:
        view = await read_task(connection, names, task)
    except UnknownTask:
        return None
    summary = view.summary
    return OwnBudget(
        task,
        summary.state.value,
        summary.stop_loss.state.value,
        summary.stop_loss.code,
        summary.current_phase,
        _budgets(summary.totals),
        {phase: _budgets(one.standings) for phase, one in view.phases.items()},
    )


async def read_limits(
    connection: StoreConnection,
    names: TenantKeys,
    clock: WindowClock,
    limits: Sequence[SpendLimit],
) -> tuple[LimitStanding, ...]:
    """Return where limits stand in the windows of the store's time. Raises StoreError."""
    if not limits:
        return ()
    now_ms = await server_ms(connection)
    keys = [window_key(names, limit, clock.window(limit, now_ms)) for limit in limits]
    found = await asyncio.gather(
        *(connection.execute("HMGET", key, *WINDOW_FIELDS) for key in keys)
    )
    return tuple(
        clock.standing(limit, values, now_ms) for limit, values in zip(limits, found, strict=True)
    )


def _budgets(standings: Standings) -> Budgets:
    return {
        dimension: Figures(one.allowed, one.line, one.used, one.reserved)
        for dimension, one in standings.items()
    }
