"""A task's budget for its own agent (`core/own_budget.py`)."""

from gateway.core.own_budget import Budgets, Figures, OwnBudget
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask
from gateway.store.task_view import Standings
from gateway.store.tasks import read_task


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


def _budgets(standings: Standings) -> Budgets:
    return {
        dimension: Figures(one.allowed, one.line, one.used, one.reserved)
        for dimension, one in standings.items()
    }
