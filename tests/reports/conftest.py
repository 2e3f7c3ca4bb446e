"""A ledger on SQLite, a task whose calls are in it, and the reporter over both."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.budget import TaskProfile, task_limits
from gateway.ledger.database import migrate
from gateway.ledger.outbox import Outbox
from gateway.reports.reporter import Reporter, ReportRules
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import Agent, budgets

NOW_S = 1_793_612_700.0


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, tmp_path: Path) -> Iterator[Desk]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    made = Desk(tenant, connection, url, outbox=Outbox(has_reports=True))
    with made.connect() as ledger:
        migrate(ledger)
    yield made
    made.engine.dispose()


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T from 2026-11-02T09:40:00 on."""
    limits = task_limits(replace(budgets(), config_hash="0f3a5c7e9b1d2468"), TaskProfile())
    made = Agent(store, tenant, limits=limits)
    made.at(1_793_612_400_000)
    return made


@pytest.fixture
def reporter(desk: Desk, tmp_path: Path) -> Reporter:
    """One whose waits between attempts are nothing."""
    return Reporter(
        ReportRules(tmp_path / "evidence", backoff_s=(0,)),
        (desk.engine, desk.store),
        desk.outbox,
        lambda: True,
        desk.note,
        lambda: NOW_S,
    )
