"""What the ledger has to say in a task's report, and the task itself where the store cannot tell.

All take a connection and a tenant, and only read. Raised are the database's own errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select

from gateway.ledger.history import read_pasts
from gateway.ledger.schema import AUDIT, BREACHES, CALLS, TASKS
from gateway.ledger.sums import task_sums
from gateway.store.limits import decode_override
from gateway.store.task_view import TaskView
from gateway.store.tasks import view_of

_ALL_NUMBERS = 1 << 62
_MOST_SIMILAR = 20
_MOST_BREACHES = 100


@dataclass(frozen=True, slots=True)
class SimilarTask:
    """What a completed task of the same tiers used, children included."""

    task: str
    tokens: int
    latency_ms: int


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What the ledger knows beyond a task's balances.

    `breaches` are rows, oldest first; `blocked` counts refused attempts by code; `sources` counts
    the tokens that were charged by who counted them; `estimated_calls` are by phase, `-` for none.
    """

    breaches: Sequence[Mapping[str, Any]]
    blocked: Mapping[str, int]
    sources: Mapping[str, int]
    estimated_calls: Mapping[str, int]
    unpriced_calls: int
    similar: Sequence[SimilarTask]


def task_history(connection: Connection, tenant: str, task: str) -> TaskHistory:
    """Return what is known of a task, at once."""
    sources, estimated, unpriced = _calls(connection, tenant, task)
    return TaskHistory(
        breaches=_breaches(connection, tenant, task),
        blocked=_blocked(connection, tenant, task),
        sources=sources,
        estimated_calls=estimated,
        unpriced_calls=unpriced,
        similar=_similar(connection, tenant, task),
    )


def view_from_ledger(
    connection: Connection, tenant: str, task: str, now_ms: int
) -> TaskView | None:
    """Return a task as the store would have it if it were rebuilt now; None for an unknown one."""
    past = read_pasts(connection, tenant, [task]).get(task)
    if past is None or past.snapshot is None:
        return None
    limits = past.limit_fields(past.overrides)
    sums = task_sums(connection, tenant, [task], _ALL_NUMBERS).get(task, {})
    counted = (*past.least.items(), *sums.items())
    numbers = {name: str(amount) for name, amount in counted if amount}
    trip = dict(zip(("trip", "trip_code", "trip_ms"), past.trip, strict=False))
    fields = {
        "created": str(past.created_ms),
        **dict(zip(limits[::2], limits[1::2], strict=True)),
        **past.missing,
        **numbers,
        **trip,
    }
    return view_of(task, fields, tuple(map(decode_override, past.overrides)), now_ms)


def _breaches(connection: Connection, tenant: str, task: str) -> list[dict[str, Any]]:
    """Return the lines that the task crossed; a trip is also found at a child's call."""
    table = BREACHES.c
    found = connection.execute(
        select(BREACHES)
        .where(table.tenant == tenant, or_(table.task == task, table.name == task))
        .order_by(table.number.desc())
        .limit(_MOST_BREACHES)
    )
    rows = [dict(row) for row in found.mappings()]
    return sorted(rows, key=lambda row: (row["number"], row["effect"]))


def _blocked(connection: Connection, tenant: str, task: str) -> dict[str, int]:
    found = connection.execute(
        select(CALLS.c.code, func.count())
        .where(CALLS.c.tenant == tenant, CALLS.c.task == task, CALLS.c.state == "refused")
        .where(CALLS.c.code != "budget_in_flight")
        .group_by(CALLS.c.code)
        .order_by(CALLS.c.code)
    )
    return {code: int(count) for code, count in found}


def _calls(
    connection: Connection, tenant: str, task: str
) -> tuple[dict[str, int], dict[str, int], int]:
    """Return tokens by source, estimated calls by phase, and how many calls have no price."""
    table = CALLS.c
    found = connection.execute(
        select(
            *(table.usage_source, table.phase, func.count()),
            func.coalesce(func.sum(table.tokens), 0),
            func.sum(case((and_(table.nano_usd.is_(None), table.state == "settled"), 1), else_=0)),
        )
        .where(table.tenant == tenant, table.task == task)
        .where(table.state.in_(("settled", "expired")))
        .group_by(table.usage_source, table.phase)
        .order_by(table.usage_source, table.phase)
    )
    sources: dict[str, int] = {}
    estimated: dict[str, int] = {}
    unpriced = 0
    for source, phase, calls, tokens, without_price in found:
        name = source or "none"
        sources[name] = sources.get(name, 0) + int(tokens)
        unpriced += int(without_price)
        if name == "estimated":
            estimated[phase or "-"] = int(calls)
    return sources, estimated, unpriced


def _similar(connection: Connection, tenant: str, task: str) -> list[SimilarTask]:
    """Return completed tasks of the same complexity and importance, the latest ones."""
    table = TASKS.c
    tiers = connection.execute(
        select(table.complexity, table.importance).where(table.tenant == tenant, table.task == task)
    ).one_or_none()
    if tiers is None:
        return []
    completed = (
        select(AUDIT.c.number)
        .where(AUDIT.c.tenant == tenant, AUDIT.c.subject == table.task)
        .where(AUDIT.c.action == "task.complete")
        .exists()
    )
    names = list(
        connection.scalars(
            select(table.task)
            .where(table.tenant == tenant, table.task != task, completed)
            .where(table.complexity == tiers.complexity, table.importance == tiers.importance)
            .order_by(table.created_ms.desc(), table.task)
            .limit(_MOST_SIMILAR)
        )
    )
    sums = task_sums(connection, tenant, names, _ALL_NUMBERS) if names else {}
    return [
        SimilarTask(name, sums[name].get("tokens.S", 0), sums[name].get("latency_ms.S", 0))
        for name in names
        if name in sums
    ]
