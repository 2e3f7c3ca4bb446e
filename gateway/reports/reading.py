"""The report of a task on demand, from whatever can be read of it (EC14, EC15)."""

from contextlib import suppress

from msgspec import MsgspecError
from sqlalchemy import Engine

from gateway.core.errors import LedgerError
from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger.report_facts import TaskHistory, task_history, view_from_ledger
from gateway.reports.building import build_report
from gateway.reports.report import Report
from gateway.store.task_view import TaskView

_NOT_UNDERSTOOD = (ValueError, KeyError, MsgspecError)  # records of another time: told as missing


def read_report(
    url: str, tenant: str, task: str, view: TaskView | None, now_ms: int
) -> Report | None:
    """Return a task's report; without `view` its figures are the ledger's. None: unknown to both.

    A ledger that cannot be read leaves out what only it knows; without a view LedgerError is raised
    then. Connects and waits for the database: not for an event loop.
    """
    try:
        with ledger_errors(), open_ledger(url) as connection:
            history = task_history(connection, tenant, task)
            found = view or view_from_ledger(connection, tenant, task, now_ms)
    except LedgerError:
        if view is None:
            raise
        return build_report(task, view, None, now_ms)
    if found is None:
        return None
    return build_report(task, found, history, now_ms, from_ledger=view is None)


def report_to_write(
    engine: Engine, tenant: str, task: str, view: TaskView | None, now_ms: int
) -> Report:
    """Return the report that a file gets: there is one, however little is known (EC15).

    Raises LedgerError for a database that does not answer: later it will.
    """
    history: TaskHistory | None = None
    found = view
    with ledger_errors(), engine.connect() as connection, suppress(*_NOT_UNDERSTOOD):
        history = task_history(connection, tenant, task)
        found = view or view_from_ledger(connection, tenant, task, now_ms)
    return build_report(task, found, history, now_ms, from_ledger=view is None)
