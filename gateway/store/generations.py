"""Reopening a completed task as a new generation: a whole budget again, nothing forgotten (G-18).

What was used stays used: totals are sums over all executions, and the ledger can give them back.
The new generation's room is a grant of what the generations before it used.
"""

from gateway.core.acts import Act, Verb
from gateway.core.budget import Amounts, Dimension
from gateway.core.overrides import Override, OverrideKind
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import apply_override
from gateway.store.steering import Steered, steer_task
from gateway.store.task_view import TaskView
from gateway.store.tasks import read_task

_LIMITED = (Dimension.TOKENS, Dimension.LATENCY_MS, Dimension.NANO_USD)


async def reopen_task(
    connection: StoreConnection, names: TenantKeys, task: str, act: Act, *, now_ms: str = ""
) -> Steered:
    """Begin a new generation of a task that was completed. Repeated, it grants nothing twice.

    Raises UnknownTask, and WrongState for a task that was not completed.
    """
    steered = await steer_task(connection, names, task, Verb.REOPEN, act, now_ms=now_ms)
    view = await read_task(connection, names, task, int(now_ms) if now_ms else None)
    used = _ungranted(view)
    if not steered.changed and used == Amounts():
        return steered
    override = Override(OverrideKind.GRANT, act.actor, act.reason, view.now_ms, amounts=used)
    generation = ("generation", str(view.generation + 1))
    await apply_override(connection, names, task, override, fields=generation, now_ms=now_ms)
    return Steered(steered.state, changed=True)


def _ungranted(view: TaskView) -> Amounts:
    """Return what was used of each limit beyond grants for good, None where that is nothing."""
    amounts = {}
    for dimension in _LIMITED:
        total = view.summary.totals[dimension]
        granted = sum(
            override.amounts.get(dimension) or 0
            for override in view.overrides
            if override.kind is OverrideKind.GRANT and override.expires_ms is None
        )
        if total.limit is not None and total.used > granted:
            amounts[dimension.value] = total.used - granted
    return Amounts(**amounts)
