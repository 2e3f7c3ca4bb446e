"""The ledger's tables as files: JSON Lines, CSV, Parquet. A file appears whole, or not at all."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Connection, Integer, Select, Table, select

from gateway.core.errors import LedgerError
from gateway.ledger.schema import AUDIT, BREACHES, CALLS, OVERRIDES, PHASE_EXECUTIONS, TASKS

TABLES: Mapping[str, Table] = {
    table.name: table for table in (CALLS, TASKS, PHASE_EXECUTIONS, BREACHES, OVERRIDES, AUDIT)
}
_TIME: Mapping[str, str] = {
    "calls": "at_ms",
    "tasks": "created_ms",
    "phase_executions": "started_ms",
    "breaches": "at_ms",
    "overrides": "created_ms",
    "audit": "at_ms",
}
_BATCH = 2_000

Rows = Iterator[Sequence[Mapping[str, Any]]]


def export(
    connection: Connection,
    tenant: str,
    table: str,
    form: str,
    file: Path,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> int:
    """Write a table into a file; return how many rows. `form` is jsonl, csv or parquet.

    Raises LedgerError for Parquet without pyarrow, and OSError.
    """
    write = _WRITERS[form]
    chosen = TABLES[table]
    part = file.with_name(f"{file.name}.part")
    counted = 0

    def batches() -> Rows:
        nonlocal counted
        found = connection.execution_options(yield_per=_BATCH).execute(
            _statement(chosen, tenant, since_ms, until_ms)
        )
        for rows in found.mappings().partitions():
            counted += len(rows)
            yield [dict(row) for row in rows]

    try:
        write(part, chosen, batches())
        part.replace(file)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return counted


def _statement(
    table: Table, tenant: str, since_ms: int | None, until_ms: int | None
) -> Select[Any]:
    time = table.c[_TIME[table.name]]
    statement = select(table).where(table.c.tenant == tenant)
    if since_ms is not None:
        statement = statement.where(time >= since_ms)
    if until_ms is not None:
        statement = statement.where(time < until_ms)
    return statement.order_by(time, *table.primary_key.columns)


def _write_jsonl(file: Path, _table: Table, batches: Rows) -> None:
    encode = msgspec.json.Encoder().encode
    with file.open("wb") as out:
        for rows in batches:
            out.writelines(encode(row) + b"\n" for row in rows)


def _write_csv(file: Path, table: Table, batches: Rows) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [column.name for column in table.c])
        writer.writeheader()
        for rows in batches:
            writer.writerows(rows)


def _write_parquet(file: Path, table: Table, batches: Rows) -> None:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise LedgerError(
            "Parquet needs pyarrow. Remedy: pip install 'tollgate[parquet]', or choose another "
            "format."
        ) from None
    schema = arrow.schema(
        [arrow.field(column.name, _arrow_type(arrow, column.type)) for column in table.c]
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in batches:
            writer.write_table(arrow.Table.from_pylist(list(rows), schema=schema))


def _arrow_type(arrow: Any, kind: object) -> Any:
    if isinstance(kind, Boolean):
        return arrow.bool_()
    if isinstance(kind, Integer | BigInteger):
        return arrow.int64()
    return arrow.string()


_WRITERS: Mapping[str, Callable[[Path, Table, Rows], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
FORMATS = tuple(_WRITERS)
