"""What a call was charged, for whoever wants to mend it."""

from sqlalchemy import Connection, select

from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger.schema import CALLS
from gateway.store.correction import Charge


def read_charge(url: str, tenant: str, call_id: str) -> Charge | None:
    """Return a call's charge; None for a call that the ledger does not know. Raises LedgerError.

    Connects and waits for the database: not for an event loop.
    """
    with ledger_errors(), open_ledger(url) as connection:
        return find_charge(connection, tenant, call_id)


def find_charge(connection: Connection, tenant: str, call_id: str) -> Charge | None:
    """Return a call's charge; None for a call that the ledger does not know."""
    row = connection.execute(
        select(CALLS).where(CALLS.c.tenant == tenant, CALLS.c.call_id == call_id)
    ).one_or_none()
    if row is None:
        return None
    is_settled = row.state == "settled"  # only of these a task counts estimates and would-refuse
    return Charge(
        call_id=call_id,
        task=row.task,
        state=row.state,
        number=row.number,
        phase=row.phase or "",
        execution=row.execution or 0,
        tokens=row.tokens,
        nano_usd=row.nano_usd,
        is_estimated=is_settled and row.usage_source == "estimated",
        would_refuse=is_settled and bool(row.would_refuse),
    )
