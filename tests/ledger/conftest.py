"""A ledger on each kind of database, and what is written into it by a real store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from gateway.core.budget import TaskProfile, task_limits
from gateway.ledger.database import migrate, open_engine
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk, call
from tests.ledger.postgres import PostgresServer, postgres_server
from tests.store.agent import Agent, budgets


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


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, ledger_url: str) -> Desk:
    return Desk(tenant, connection, ledger_url)


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    made = Agent(
        store, tenant, limits=task_limits(replace(budgets(), config_hash="h1"), TaskProfile())
    )
    made.at(1_000_000)
    return made


@pytest.fixture
async def worked(agent: Agent, desk: Desk) -> Desk:
    """PLAN: 2,000 and, later again, 2,000 of 2,400 tokens; THINK: 9,001 of 6,000, one estimated."""
    await call(agent, "PLAN", 2_000, ms=1_000)
    await call(agent, "THINK", 6_001, ms=1_000, estimated=True)
    await call(agent, "THINK", 3_000, ms=500, model="other")
    agent.at(1_100_000)
    await call(agent, "PLAN", 2_000, ms=61_000)
    await desk.written()
    return desk
