"""Old calls go, sums stay; what is full says so."""

import pytest
from sqlalchemy import Engine

from gateway.ledger.executions import phase_breakdown
from gateway.ledger.retention import delete_older
from gateway.ledger.schema import CARRIED, INHERITED_LATENCY
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, Agent, settlement


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, ledger_url: str) -> Desk:
    return Desk(tenant, connection, ledger_url)


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


async def test_A12_sums_are_carried_forward(agent: Agent, desk: Desk) -> None:
    """Of the task, its phases and executions, and of its ancestors: the store still agrees."""
    await agent.call("PLAN")
    child = Agent(
        agent.store, agent.tenant, "C", type(FACTS)(FACTS.complexity, FACTS.importance, ("T",))
    )
    plan, _ = await child.reserve("PLAN")
    agent.at(1_002_000)
    await agent.store.settle(settlement(plan, 50, 5))
    agent.at(2_000_000)
    await agent.call("PLAN", tokens=7)
    await agent.reserve("VERIFY", kind=agent.kind)
    await desk.written()
    with desk.engine.connect() as ledger:
        assert delete_older(ledger, desk.tenant, 1_500_000) == 2
        assert delete_older(ledger, desk.tenant, 1_500_000) == 0
        (execution,) = phase_breakdown(ledger, desk.tenant, "T")
        assert execution.tokens_used == 15_807
    assert [row["tokens"] for row in desk.rows()] == [7]
    assert desk.rows(INHERITED_LATENCY, "call_id") == []
    assert desk.rows(CARRIED, "field")
    assert (await desk.verify()).differences == ()
    await desk.flush()
    await desk.rebuild()
    assert (await desk.verify()).differences == ()


async def test_A12_the_writer_deletes_by_itself(agent: Agent, desk: Desk) -> None:
    """What ended in 1970 is more than 90 days old."""
    await agent.call("PLAN")
    await desk.written()
    await desk.written(retention_days=90)
    assert desk.rows() == []
    assert desk.said("ledger_cleaned") == [{"level": "info", "tenant": desk.tenant, "calls": 1}]


async def test_A12_a_large_ledger_is_said_once(desk: Desk) -> None:
    """A1: with the remedy."""
    await desk.written(size_alert_bytes=1_000)
    (said,) = desk.said("ledger_is_large")
    assert said["bytes"] > 1_000
    assert "retention_days" in said["remedy"]
    assert isinstance(desk.engine, Engine)
