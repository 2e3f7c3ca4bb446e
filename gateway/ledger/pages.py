"""Pages of the ledger's breaches and audit entries, latest first."""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Connection, select

from gateway.ledger.database import ledger_errors, open_ledger
from gateway.ledger.schema import METADATA
from gateway.ledger.verdicts import verdicts

Record = Mapping[str, Any]


def read_page(
    url: str, table: str, tenant: str, wanted: Mapping[str, str], below: int | None, most: int
) -> list[Record]:
    """Return rows of `breaches` or `audit`; `wanted` are columns' values. Raises LedgerError.

    Connects and waits for the database: not for an event loop.
    """
    with ledger_errors(), open_ledger(url) as connection:
        return find_page(connection, table, tenant, wanted, below, most)


class KeptPages:
    """Reads pages, as `read_page` does, over one connection for whoever reads again and again.

    It is opened when first needed, and anew after an error.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._open = ExitStack()
        self._one_at_a_time = threading.Lock()

    def read(
        self, table: str, tenant: str, wanted: Mapping[str, str], below: int | None, most: int
    ) -> list[Record]:
        """Return rows as `find_page` does. Raises LedgerError."""
        with self._one_at_a_time, ledger_errors():
            try:
                if self._connection is None:
                    self._connection = self._open.enter_context(open_ledger(self._url))
                rows = find_page(self._connection, table, tenant, wanted, below, most)
                self._connection.rollback()  # the next look must not see an old snapshot
            except BaseException:
                self._let_go()
                raise
            return rows

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._one_at_a_time:
            self._let_go()

    def _let_go(self) -> None:
        self._connection = None
        self._open.close()


def find_page(
    connection: Connection,
    table: str,
    tenant: str,
    wanted: Mapping[str, str],
    below: int | None,
    most: int,
) -> list[Record]:
    """Return rows with numbers under `below`. A page goes on to the end of its last number.

    One act may cross several lines, which have its number; so a page may be a little longer than
    `most`, and the next one begins below its last number.
    """
    columns = METADATA.tables[table].c
    chosen = [columns.tenant == tenant]
    chosen += [columns[name] == value for name, value in wanted.items()]
    statement = select(METADATA.tables[table]).where(*chosen).order_by(columns.number.desc())
    page = statement.where(columns.number < below) if below is not None else statement
    rows: list[Record] = [dict(row) for row in connection.execute(page.limit(most)).mappings()]
    if len(rows) < most:
        return _judged(connection, table, tenant, rows)
    last = rows[-1]["number"]
    whole = connection.execute(statement.where(columns.number == last)).mappings()
    rows = [*(row for row in rows if row["number"] != last), *map(dict, whole)]
    return _judged(connection, table, tenant, rows)


def _judged(connection: Connection, table: str, tenant: str, rows: list[Record]) -> list[Record]:
    """Add to breaches what people judged of them, None if nobody has."""
    if table != "breaches" or not rows:
        return rows
    known = verdicts(connection, tenant, [row["call_id"] for row in rows])
    return [{**row, "verdict": known.get(row["call_id"])} for row in rows]
