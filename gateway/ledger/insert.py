"""Put rows into the ledger, each once, however often they come.

A call's row is replaced only by a later act on the same call (a settlement of one that expired, an
answer in the background that is fetched): sequence numbers tell which is later. What acts added to
latency adds up; when it began and what it held is what the first act said, or the earliest.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case, func, select, update

from gateway.ledger.database import upsert
from gateway.ledger.entries import Row, Rows
from gateway.ledger.outbox import Outbox
from gateway.ledger.report_queue import queue_reports
from gateway.ledger.schema import (
    ANCESTRY,
    AUDIT,
    BREACHES,
    CALLS,
    INHERITED_LATENCY,
    OVERRIDES,
    PHASE_EXECUTIONS,
    RECORDS,
    REJECTED,
    TASKS,
)

_KEY = ("tenant", "call_id")
_ADDED_UP = ("task_latency_ms", "phase_latency_ms")
_KEPT = ("reserve_number", "expired_tokens", "model", "phase", "execution", "windows")
_OF_THE_FIRST = ("held_tokens", "held_nano_usd", "started_ms", "generation")
_OTHERWISE = (*_KEY, *_ADDED_UP, *_KEPT, *_OF_THE_FIRST)
_OF_REGISTRATION = (
    *("facts", "complexity", "importance", "config_hash", "snapshot", "provisional"),
)
_REPLACED = [column.name for column in CALLS.c if column.name not in _OTHERWISE]


def insert_rows(connection: Connection, rows: Rows, outbox: Outbox) -> None:
    """Insert rows, and what is to be told of them, within the connection's transaction.

    Raises the database's errors.
    """
    _insert_tasks(connection, rows.tasks)
    _insert_once(connection, ANCESTRY, rows.ancestry)
    _insert_once(connection, PHASE_EXECUTIONS, rows.phase_executions)
    _insert_calls(connection, rows.calls)
    _correct_calls(connection, rows.corrections)
    _insert_once(connection, INHERITED_LATENCY, _with_ancestors(connection, rows))
    _insert_once(connection, BREACHES, rows.breaches)
    _insert_once(connection, OVERRIDES, rows.overrides)
    _insert_once(connection, AUDIT, rows.audit)
    insert_records(connection, rows.records)
    _insert_once(connection, REJECTED, rows.rejected)
    outbox.insert(connection, rows.notices)
    if outbox.has_reports:
        outbox.report_news |= queue_reports(connection, rows)


def _insert_once(connection: Connection, table: Table, rows: list[Row]) -> None:
    if rows:
        connection.execute(upsert(connection, table).on_conflict_do_nothing(), rows)


def _insert_tasks(connection: Connection, rows: list[Row]) -> None:
    """Keep the first row of a task, but for a provisional one: another takes its place."""
    if not rows:
        return
    insert = upsert(connection, TASKS)
    new, old = insert.excluded, TASKS.c
    statement = insert.on_conflict_do_update(
        index_elements=["tenant", "task"],
        set_={name: new[name] for name in _OF_REGISTRATION},
        where=old.provisional.is_(True) & new.provisional.is_(None),
    )
    connection.execute(statement, rows)


def _insert_calls(connection: Connection, rows: list[Row]) -> None:
    if not rows:
        return
    insert = upsert(connection, CALLS)
    new, old = insert.excluded, CALLS.c
    values: dict[str, ColumnElement[Any]] = {name: new[name] for name in _REPLACED}
    values |= {name: old[name] + new[name] for name in _ADDED_UP}
    values |= {name: func.coalesce(new[name], old[name]) for name in _KEPT}
    values |= {name: func.coalesce(old[name], new[name]) for name in _OF_THE_FIRST}
    values["started_ms"] = case(
        (new.started_ms < old.started_ms, new.started_ms), else_=old.started_ms
    )
    statement = insert.on_conflict_do_update(
        index_elements=list(_KEY), set_=values, where=new.number > old.number
    )
    connection.execute(statement, rows)


def insert_records(connection: Connection, rows: list[Row]) -> None:
    """Keep the latest version of keys and bindings."""
    if not rows:
        return
    insert = upsert(connection, RECORDS)
    new = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=["tenant", "subject"],
        set_={name: new[name] for name in ("version", "document", "expires_ms")},
        where=new.version > RECORDS.c.version,
    )
    connection.execute(statement, rows)


def _correct_calls(connection: Connection, rows: list[Row]) -> None:
    """Put other charges into rows that are there; whose was corrected, ended when it did."""
    for row in rows:
        key = [CALLS.c[name] == row[name] for name in _KEY]
        values = {name: value for name, value in row.items() if name not in _KEY}
        connection.execute(update(CALLS).where(*key, CALLS.c.number < row["number"]).values(values))


def _with_ancestors(connection: Connection, rows: Rows) -> list[Row]:
    """Return the latency of ancestors under their names; entries know them by depth."""
    waits = rows.inherited_latency
    if not waits:
        return []
    names = _ancestors(connection, waits[0]["tenant"], {wait["task"] for wait in waits})
    return [
        {
            "tenant": wait["tenant"],
            "ancestor": names[wait["task"], wait["depth"]],
            "call_id": wait["call_id"],
            "number": wait["number"],
            "latency_ms": wait["latency_ms"],
        }
        for wait in waits
        if (wait["task"], wait["depth"]) in names
    ]


def _ancestors(
    connection: Connection, tenant: str, tasks: Iterable[str]
) -> dict[tuple[str, int], str]:
    found = connection.execute(
        select(ANCESTRY.c.task, ANCESTRY.c.depth, ANCESTRY.c.ancestor).where(
            ANCESTRY.c.tenant == tenant, ANCESTRY.c.task.in_(list(tasks))
        )
    )
    return {(task, depth): ancestor for task, depth, ancestor in found}
