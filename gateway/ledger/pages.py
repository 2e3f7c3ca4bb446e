"""Pages of the ledger's breaches and audit entries: back from the latest, or on from a number."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

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


class FollowedLedger:
    """Reads on in `breaches` or `audit`, over one connection for whoever does so again and again.

    It is opened when first needed, and anew after an error. Both ways to read raise LedgerError.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._open = ExitStack()
        self._one_at_a_time = threading.Lock()

    def last_number(self, table: str, tenant: str) -> int:
        """Return the number of the last row, 0 if there is none."""
        columns = METADATA.tables[table].c
        last = select(func.max(columns.number)).where(columns.tenant == tenant)
        with self._connected() as connection:
            return connection.execute(last).scalar() or 0

    def read_on(self, table: str, tenant: str, above: int, most: int) -> list[Record]:
        """Return rows with numbers above one, in their order, as `find_next_page` does."""
        with self._connected() as connection:
            return find_next_page(connection, table, tenant, above, most)

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._one_at_a_time:
            self._let_go()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._one_at_a_time, ledger_errors():
            try:
                if self._connection is None:
                    self._connection = self._open.enter_context(open_ledger(self._url))
                yield self._connection
                self._connection.rollback()  # the next look must not see an old snapshot
            except BaseException:
                self._let_go()
                raise

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
    if below is not None:
        chosen.append(columns.number < below)
    rows = _whole_acts(connection, table, chosen, columns.number.desc(), most)
    return _judged(connection, table, tenant, rows)


def find_next_page(
    connection: Connection, table: str, tenant: str, above: int, most: int
) -> list[Record]:
    """Return rows with numbers above `above`, the lowest first; a page ends as in `find_page`."""
    columns = METADATA.tables[table].c
    chosen = [columns.tenant == tenant, columns.number > above]
    rows = _whole_acts(connection, table, chosen, columns.number, most)
    return _judged(connection, table, tenant, rows)


def _whole_acts(
    connection: Connection,
    table: str,
    chosen: Sequence[ColumnElement[bool]],
    order: ColumnElement[int],
    most: int,
) -> list[Record]:
    """Return up to `most` rows, and what else has the number of the last one."""
    statement = select(METADATA.tables[table]).where(*chosen).order_by(order)
    rows: list[Record] = [dict(row) for row in connection.execute(statement.limit(most)).mappings()]
    if len(rows) < most:
        return rows
    last = rows[-1]["number"]
    number = METADATA.tables[table].c.number
    whole = connection.execute(statement.where(number == last)).mappings()
    return [*(row for row in rows if row["number"] != last), *map(dict, whole)]


def _judged(connection: Connection, table: str, tenant: str, rows: list[Record]) -> list[Record]:
    """Add to breaches what people judged of them, None if nobody has."""
    if table != "breaches" or not rows:
        return rows
    known = verdicts(connection, tenant, [row["call_id"] for row in rows])
    return [{**row, "verdict": known.get(row["call_id"])} for row in rows]
