"""What people judged of blocks: entries of the audit, the latest of each call that was blocked."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from gateway.core.statistics import VERDICT_ACTION, VERDICT_SUBJECT
from gateway.ledger.schema import AUDIT


def verdicts(
    connection: Connection, tenant: str, call_ids: Sequence[str] | None = None
) -> dict[str, str]:
    """Return verdicts by the call that was blocked: of some calls, or of all."""
    table = AUDIT.c
    statement = select(table.subject, table.details).where(
        table.tenant == tenant, table.action == VERDICT_ACTION
    )
    if call_ids is None:
        statement = statement.where(table.subject.startswith(VERDICT_SUBJECT))
    else:
        statement = statement.where(table.subject.in_([f"{VERDICT_SUBJECT}{c}" for c in call_ids]))
    return {
        subject.removeprefix(VERDICT_SUBJECT): msgspec.json.decode(details)["verdict"]
        for subject, details in connection.execute(statement.order_by(table.number))
    }
