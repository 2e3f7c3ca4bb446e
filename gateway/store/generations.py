"""Reopening a completed task as a new generation: a whole budget again, nothing forgotten (G-18).

What was used stays used: totals are sums over all executions, and the ledger can give them back.
The new generation's room is an override of its own kind: what the generations before it used, in
all and of each phase. Only a review of its own can let it through to its end (SL-9).
"""

from collections.abc import Iterable

from gateway.core.acts import Act, TaskState, Verb, state_after
from gateway.core.budget import Amounts, Dimension
from gateway.core.overrides import ROOM_GIVING, Override, OverrideKind
from gateway.core.phases import WorkPhase
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import Check, apply_override
from gateway.store.steering import Steered, steer_task
from gateway.store.task_view import Standings, TaskView
from gateway.store.tasks import read_task

_LIMITED = (Dimension.TOKENS, Dimension.LATENCY_MS, Dimension.NANO_USD)
_NOTHING = Amounts()


async def reopen_task(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    act: Act,
    *,
    token: str | None = None,
    check: Check | None = None,
    now_ms: str = "",
) -> Steered:
    """Begin a new generation of a task that was completed. Repeated, it gives nothing twice.

    Raises UnknownTask, WrongState for a task that was not completed, and what `check` raises; then
    nothing was changed. `token` names the admin token that it was sent with.
    """
    view = await _view(connection, names, task, now_ms)
    override = _of_generation(view, act, token)
    if check is not None and override.amounts != _NOTHING and _may_reopen(view):
        live = [one for one in view.overrides if one.in_force(view.now_ms)]
        check(view.snapshot, live, override)
    steered = await steer_task(connection, names, task, Verb.REOPEN, act, now_ms=now_ms)
    view = await _view(connection, names, task, now_ms)  # what was used meanwhile counts, too
    override = _of_generation(view, act, token)
    if not steered.changed and override.amounts == _NOTHING:
        return steered
    review = view.phases[WorkPhase.REVIEW].executions
    fields = {
        "generation": view.generation + 1,
        "REVIEW.past": max((one.number for one in review), default=0),
    }
    words = [str(word) for pair in fields.items() for word in pair]
    await apply_override(connection, names, task, override, fields=words, now_ms=now_ms)
    return Steered(steered.state, changed=True)


def _may_reopen(view: TaskView) -> bool:
    return state_after(Verb.REOPEN, view.summary.state, TaskState.OPEN) is not None


async def _view(connection: StoreConnection, names: TenantKeys, task: str, now_ms: str) -> TaskView:
    return await read_task(connection, names, task, int(now_ms) if now_ms else None)


def _of_generation(view: TaskView, act: Act, token: str | None) -> Override:
    """Return the override that gives a task and its phases whole budgets again."""
    lasting = [one for one in view.overrides if one.kind in ROOM_GIVING and one.expires_ms is None]
    used = {
        phase: _beyond(one.standings, (past.used.get(phase, _NOTHING) for past in lasting))
        for phase, one in view.phases.items()
    }
    return Override(
        OverrideKind.GENERATION,
        act.actor,
        act.reason,
        view.now_ms,
        amounts=_beyond(view.summary.totals, (one.amounts for one in lasting)),
        token=token,
        used={phase: amounts for phase, amounts in used.items() if amounts != _NOTHING},
    )


def _beyond(standings: Standings, given: Iterable[Amounts]) -> Amounts:
    """Return what was used of each limit beyond what was given, None where that is nothing."""
    before, amounts = tuple(given), {}
    for dimension in _LIMITED:
        total = standings[dimension]
        past = sum(one.get(dimension) or 0 for one in before)
        if total.limit is not None and total.used > past:
            amounts[dimension.value] = total.used - past
    return Amounts(**amounts)
