"""A ledger on each kind of database, and what is written into it by a real store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from gateway.ledger.database import migrate, open_engine
from tests.ledger.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the session; each test has a database of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def engine(ledger_url: str) -> Engine:
    """An engine for it."""
    return open_engine(ledger_url)


@pytest.fixture
def ledger(engine: Engine) -> Iterator[Connection]:
    """A connection to a ledger with today's schema."""
    with engine.connect() as connection:
        migrate(connection)
        yield connection
