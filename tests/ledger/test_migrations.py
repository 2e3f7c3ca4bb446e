"""The schema's history, up and down, on both databases; old records stay readable (CMP-1)."""

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, column, event, inspect, select, table, text

from gateway.core.errors import LedgerError
from gateway.ledger.database import (
    latest_revision,
    migrate,
    open_engine,
    require_schema,
    schema_revision,
)
from gateway.ledger.queries import CallFilter, find_calls
from gateway.ledger.schema import CALLS, METADATA

OLD_CALL = {
    "tenant": "default",
    "call_id": "c-1",
    "state": "settled",
    "number": 7,
    "task": "T",
    "started_ms": 1,
    "at_ms": 2,
    "tokens": 28,
    "task_latency_ms": 5,
    "phase_latency_ms": 0,
}


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def columns_of_calls(connection: Connection) -> set[str]:
    return {found["name"] for found in inspect(connection).get_columns("calls")}


def test_up_gives_the_schema_that_the_code_knows(ledger: Connection) -> None:
    """Column by column: the tables of `schema` and those of the migrations are the same."""
    context = MigrationContext.configure(ledger, opts={"compare_type": True})
    assert compare_metadata(context, METADATA) == []
    assert tables(ledger) == set(METADATA.tables)
    assert schema_revision(ledger) == latest_revision()


def test_down_leaves_nothing_and_up_works_again(ledger: Connection) -> None:
    """Every version can be taken back."""
    migrate(ledger, "0002")
    assert "images" not in columns_of_calls(ledger)
    migrate(ledger, "0001")
    assert "carried" not in tables(ledger)
    migrate(ledger, "base")
    assert tables(ledger) == set()
    migrate(ledger)
    assert tables(ledger) == set(METADATA.tables)


def test_migrating_twice_changes_nothing(ledger: Connection) -> None:
    """The writer does it at every start."""
    ledger.execute(CALLS.insert().values(OLD_CALL))
    migrate(ledger)
    assert ledger.scalar(select(CALLS.c.tokens)) == 28


def insert_raw(connection: Connection, row: dict[str, Any]) -> None:
    old_table = table("calls", *map(column, row))
    connection.execute(old_table.insert().values(row))
    connection.commit()


def test_rows_of_the_previous_schema_are_upgraded(engine: Engine) -> None:
    """A database of the version before, with rows: they are there, and can be queried."""
    with engine.connect() as connection:
        migrate(connection, "0001")
        insert_raw(connection, OLD_CALL)
        migrate(connection)
        (call,) = find_calls(connection, "default", CallFilter(task="T"), limit=10)
        assert (call["tokens"], call["model_served"], call["client_left"]) == (28, None, None)
        migrate(connection, "0001")
        assert connection.scalar(text("SELECT tokens FROM calls")) == 28


def test_rows_from_before_the_units_are_upgraded(engine: Engine) -> None:
    """What they were billed for beside tokens nobody knows any more: null, not nothing."""
    with engine.connect() as connection:
        migrate(connection, "0002")
        insert_raw(connection, {**OLD_CALL, "cache_write_tokens": 9, "client_left": True})
        migrate(connection)
        (call,) = find_calls(connection, "default", CallFilter(task="T"), limit=10)
        assert (call["tokens"], call["cache_write_tokens"], call["client_left"]) == (28, 9, True)
        assert (call["cache_write_1h_tokens"], call["images"], call["terms"]) == (None, None, None)
        connection.execute(CALLS.update().values(images=3, terms="flex"))
        connection.commit()
        migrate(connection, "0002")
        statement = text("SELECT tokens, cache_write_tokens, client_left FROM calls")
        assert tuple(connection.execute(statement).one()) == (28, 9, True)
        assert "images" not in columns_of_calls(connection)


def test_rows_from_before_the_windows_are_upgraded(engine: Engine) -> None:
    """Nobody told in which windows they count, nor the generation: null."""
    with engine.connect() as connection:
        migrate(connection, "0005")
        insert_raw(connection, OLD_CALL)
        migrate(connection)
        (call,) = find_calls(connection, "default", CallFilter(task="T"), limit=10)
        assert (call["tokens"], call["windows"], call["generation"]) == (28, None, None)
        connection.execute(CALLS.update().values(windows="daily:key:k@2026-11-23", generation=2))
        connection.commit()
        migrate(connection, "0005")
        assert connection.scalar(text("SELECT tokens FROM calls")) == 28
        assert "windows" not in columns_of_calls(connection)
        assert "records" not in tables(connection)


def test_a_program_and_a_schema_that_do_not_fit(engine: Engine) -> None:
    """Commands that only read say so, with the way out."""
    with engine.connect() as connection:
        with pytest.raises(LedgerError, match=f"missing, this program needs {latest_revision()}"):
            require_schema(connection)
        migrate(connection)
        require_schema(connection)


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("statements", [2, 9, 20, 40])
def test_a_migration_that_is_cut_short_leaves_nothing(tmp_path: Path, statements: int) -> None:
    """Whole or not at all, wherever a writer is killed: the next one can go on."""
    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    left = [statements]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", count)
        with pytest.raises(Killed):
            migrate(connection)
    with engine.connect() as connection:
        assert tables(connection) == set()
        migrate(connection)
        assert schema_revision(connection) == latest_revision()
