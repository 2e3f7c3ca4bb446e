"""Old calls are deleted, their sums are carried forward: totals of a long task stay what they are.

Tasks, executions, overrides, breaches and audit entries are kept: they are few, and a task's limits
are made of them.
"""

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select

from gateway.ledger.database import upsert
from gateway.ledger.schema import ANCESTRY, CALLS, CARRIED, INHERITED_LATENCY
from gateway.ledger.sums import inherited_sums, own_sums
from gateway.ledger.windows import PREFIX, is_needed, sums_of_calls

_BATCH = 5_000


def delete_older(
    connection: Connection, tenant: str, before_ms: int, now_ms: int | None = None
) -> int:
    """Delete some calls that ended before `before_ms`; return how many. Commits.

    Sums and deletion are one transaction: totals are right at every moment. Windows of spend limits
    that nobody needs any more at `now_ms` (`before_ms`, if not given) are not carried.
    """
    old = [CALLS.c.tenant == tenant, CALLS.c.at_ms < before_ms]
    numbers = connection.scalars(
        select(CALLS.c.number).where(*old).order_by(CALLS.c.number).limit(_BATCH)
    ).all()
    if not numbers:
        connection.rollback()
        return 0
    chosen = and_(*old, CALLS.c.number <= numbers[-1])
    sums = _sums(connection, tenant, chosen)
    for window, fields in sums_of_calls(connection, chosen).items():
        if is_needed(window, now_ms or before_ms):
            sums |= {(PREFIX + window, field): amount for field, amount in fields.items()}
    _carry(connection, tenant, sums)
    latency = INHERITED_LATENCY.c
    connection.execute(
        delete(INHERITED_LATENCY).where(
            latency.tenant == tenant,
            latency.call_id.in_(select(CALLS.c.call_id).where(chosen)),
        )
    )
    deleted = connection.execute(delete(CALLS).where(chosen)).rowcount
    connection.commit()
    return deleted


def _sums(
    connection: Connection, tenant: str, chosen: ColumnElement[bool]
) -> dict[tuple[str, str], int]:
    """Return what goes with the calls, by task and field: their own, and their ancestors'."""
    sums = {
        (task, field): amount
        for task, fields in own_sums(connection, chosen).items()
        for field, amount in fields.items()
    }

    def add(task: str, field: str, amount: int) -> None:
        sums[task, field] = sums.get((task, field), 0) + amount

    below = and_(ANCESTRY.c.tenant == tenant, ANCESTRY.c.task == CALLS.c.task, chosen)
    for ancestor, field, amount in inherited_sums(connection, below):
        add(ancestor, field, amount)
    latency = INHERITED_LATENCY.c
    for ancestor, latency_ms in connection.execute(
        select(latency.ancestor, func.sum(latency.latency_ms))
        .where(
            latency.tenant == tenant,
            latency.call_id.in_(select(CALLS.c.call_id).where(chosen)),
        )
        .group_by(latency.ancestor)
    ):
        add(ancestor, "latency_ms.S", int(latency_ms))
    return sums


def _carry(connection: Connection, tenant: str, sums: dict[tuple[str, str], int]) -> None:
    rows = [
        {"tenant": tenant, "task": task, "field": field, "amount": amount}
        for (task, field), amount in sums.items()
        if amount
    ]
    if rows:
        insert = upsert(connection, CARRIED)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["tenant", "task", "field"],
                set_={"amount": CARRIED.c.amount + insert.excluded.amount},
            ),
            rows,
        )
