"""The outbox: what is told to the outside is put down in the transaction that it follows from.

So it is neither lost nor told of something that never was, and each notice is in it once, whoever
dies in between. What sends it is `gateway/dispatch/`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, select, update

from gateway.core.notices import Notice, NoticeKind
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.remediation import is_remediation
from gateway.core.webhook import Tiers, WebhookPolicy
from gateway.ledger.database import ledger_errors, open_engine, upsert
from gateway.ledger.remediation import remediation_document
from gateway.ledger.report_queue import delete_written
from gateway.ledger.schema import DELIVERIES, METADATA, REMEDIATIONS, TASKS

PENDING, FAILED, WRITTEN, LISTED = "pending", "failed", "written", "listed"
DELIVERED, DEAD = "delivered", "dead"

Row = dict[str, Any]
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Outbox:
    """What is put down. `webhooks` are those in force; without a file remediations are listed.

    `has_news`: something was put down since it was last set to False, and may be committed by now;
    `report_news` is that of reports, which are asked for only where there are reports.
    """

    webhooks: tuple[WebhookPolicy, ...] = ()
    has_roadmap: bool = False
    evidence_dir: str = "state/evidence"
    has_news: bool = False
    has_reports: bool = False
    report_news: bool = False

    def insert(self, connection: Connection, notices: Sequence[Notice]) -> None:
        """Put down what follows from some notices, within the connection's transaction."""
        remediations = list(self._remediations(connection, notices))
        if remediations:
            connection.execute(
                upsert(connection, REMEDIATIONS).on_conflict_do_nothing(),
                [row for row, _ in remediations],
            )
        told = [*notices, *(notice for _, notice in remediations)]
        if self.webhooks and told:
            self._insert_deliveries(connection, told)
            self.has_news = True
        self.has_news |= bool(remediations)

    def _remediations(
        self, connection: Connection, notices: Iterable[Notice]
    ) -> Iterator[tuple[Row, Notice]]:
        """Yield a row, and the notice of it, for each trip; a remediation itself gets none."""
        for trip in notices:
            if trip.kind is not NoticeKind.TRIP or is_remediation(trip.task):
                continue
            document = remediation_document(connection, trip, self.evidence_dir)
            row: Row = {
                "tenant": trip.tenant,
                "task": trip.task,
                "episode": trip.facts["episode"],
                "name": document["id"],
                "created_ms": trip.at_ms,
                "state": PENDING if self.has_roadmap else LISTED,
                "attempts": 0,
                "due_ms": 0,
                "error": None,
                "document": _encode(document).decode(),
            }
            yield row, msgspec.structs.replace(trip, kind=NoticeKind.REMEDIATION, facts=document)

    def _insert_deliveries(self, connection: Connection, notices: Sequence[Notice]) -> None:
        tiers = _tiers(connection, notices)
        rows: list[Row] = []
        for notice in notices:
            wanting = [
                webhook
                for webhook in self.webhooks
                if webhook.wants(notice, tiers.get((notice.tenant, notice.task)))
            ]
            rows += [_delivery(webhook, notice) for webhook in wanting]
        if rows:
            connection.execute(upsert(connection, DELIVERIES).on_conflict_do_nothing(), rows)


def _delivery(webhook: WebhookPolicy, notice: Notice) -> Row:
    return {
        "tenant": notice.tenant,
        "webhook": webhook.name,
        "id": notice.id,
        "kind": notice.kind.value,
        "task": notice.task,
        "created_ms": notice.at_ms,
        "state": PENDING,
        "attempts": 0,
        "due_ms": 0,
        "error": None,
        "body": _encode(
            {
                "id": notice.id,
                "event": "pressure" if notice.kind.value.isdigit() else notice.kind.value,
                "tenant": notice.tenant,
                "task": notice.task or None,
                "at_ms": notice.at_ms,
                "data": notice.facts,
            }
        ).decode(),
    }


def _tiers(connection: Connection, notices: Iterable[Notice]) -> dict[tuple[str, str], Tiers]:
    """Return the tiers of the tasks that notices are about; a bucket has none."""
    named = {notice.task for notice in notices}
    table = TASKS.c
    return {
        (tenant, task): (Complexity(complexity), ImportanceTier(importance))
        for tenant, task, complexity, importance in connection.execute(
            select(table.tenant, table.task, table.complexity, table.importance).where(
                table.task.in_(named), table.complexity.is_not(None)
            )
        )
    }


# Queues -------------------------------------------------------------------------------------------


def due_remediations(connection: Connection, now_ms: int, most: int) -> list[Row]:
    """Return remediations that are to be written now, the oldest first."""
    table = REMEDIATIONS.c
    chosen = table.state.in_((PENDING, FAILED)), table.due_ms <= now_ms
    return _rows(connection, REMEDIATIONS, most, *chosen)


def due_deliveries(connection: Connection, now_ms: int, most: int) -> list[Row]:
    """Return deliveries that are to be sent now, the oldest first."""
    table = DELIVERIES.c
    return _rows(connection, DELIVERIES, most, table.state == PENDING, table.due_ms <= now_ms)


def deliveries_beside(connection: Connection, row: Row) -> list[Row]:
    """Return the deliveries of the same notice to other webhooks."""
    table = DELIVERIES.c
    same = table.tenant == row["tenant"], table.id == row["id"]
    found = select(DELIVERIES).where(*same, table.webhook != row["webhook"])
    return [dict(other) for other in connection.execute(found).mappings()]


def read_queue(
    url: str, table: str, tenant: str, *, task: str = "", state: str = "", most: int
) -> list[Row]:
    """Return a tenant's `remediations` or `deliveries`, the latest first; empty words match all.

    Connects and waits for the database: not for an event loop. Raises LedgerError.
    """
    with ledger_errors(), open_engine(url).connect() as connection:
        return find_in_queue(
            connection, METADATA.tables[table], tenant, task=task, state=state, most=most
        )


def find_in_queue(
    connection: Connection, table: Table, tenant: str, *, task: str = "", state: str = "", most: int
) -> list[Row]:
    """Return a tenant's rows, the latest first; empty words match all."""
    chosen = [table.c.tenant == tenant]
    chosen += [table.c[name] == word for name, word in (("task", task), ("state", state)) if word]
    return _rows(connection, table, most, *chosen, latest_first=True)


def _rows(
    connection: Connection, table: Table, most: int, *chosen: Any, latest_first: bool = False
) -> list[Row]:
    first = table.c.created_ms.desc() if latest_first else table.c.created_ms
    order = (first, *table.primary_key.columns)
    found = connection.execute(select(table).where(*chosen).order_by(*order).limit(most))
    return [dict(row) for row in found.mappings()]


def set_outcome(
    connection: Connection, table: Table, row: Row, state: str, error: str | None, due_ms: int
) -> None:
    """Note how an attempt ended, within the connection's transaction."""
    key = [column == row[column.name] for column in table.primary_key.columns]
    connection.execute(
        update(table)
        .where(*key)
        .values(state=state, attempts=row["attempts"] + 1, error=error, due_ms=due_ms)
    )


def delete_told(connection: Connection, tenant: str, before_ms: int) -> None:
    """Delete deliveries and reports done with and older than the retention. Commits."""
    table = DELIVERIES.c
    connection.execute(
        delete(DELIVERIES).where(
            table.tenant == tenant, table.created_ms < before_ms, table.state != PENDING
        )
    )
    delete_written(connection, tenant, before_ms)
    connection.commit()
