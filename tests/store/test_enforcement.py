"""The switch of enforcement: a plan that was made before it was thrown is no plan any more."""

import asyncio

import pytest
import redis

from gateway.core.acts import Act
from gateway.core.admission import Verdict
from gateway.core.enforcement import Switch, switched_off
from gateway.ports import StaleSwitch
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import read_switch, switch_enforcement
from gateway.store.keys import TenantKeys
from tests.store.agent import OBSERVE, Agent

OFF = Act("enforcement.off", "ada", "stops everybody", {"token": "ci"})
ON = Act("enforcement.on", "bob", "mended")
PATIENCE_S = 60.0


async def test_RBK2_a_switch_holds_for_the_very_next_call(
    agent: Agent, connection: StoreConnection, tenant: str
) -> None:
    """A plan that does not know of it holds nothing and counts nothing; both ways."""
    names, switch = TenantKeys(tenant), agent.store.switch_of(tenant)
    await agent.spend(28_081)
    assert (await agent.call("VERIFY")).verdict is Verdict.REFUSED
    off = await switch_enforcement(connection, names, OFF, enabled=False)
    assert off is not None and not switch.is_off
    with pytest.raises(StaleSwitch):
        await agent.call("VERIFY")
    assert switch.is_off and switched_off(switch.text) == off
    _, freed = await agent.reserve("VERIFY", switch=switch.text, effects=OBSERVE)
    assert freed.verdict is Verdict.HELD
    assert await switch_enforcement(connection, names, ON, enabled=True) is None
    with pytest.raises(StaleSwitch):
        await agent.reserve("VERIFY", switch=switch.text, effects=OBSERVE)
    assert switch.text == ""
    assert (await agent.call("VERIFY")).verdict is Verdict.REFUSED


async def test_it_says_who_switched_and_for_how_long(
    connection: StoreConnection, redis_client: redis.Redis, tenant: str
) -> None:
    """In the store, and to the ledger's audit."""
    names = TenantKeys(tenant)
    off = await switch_enforcement(connection, names, OFF, enabled=False, lasting_s=3_600)
    assert off is not None
    assert (off.approver, off.reason, off.token) == ("ada", "stops everybody", "ci")
    assert off.until_ms == off.since_ms + 3_600_000
    assert switched_off(await read_switch(connection, names)) == off
    assert 3_590_000 < redis_client.pttl(names.enforcement) <= 3_600_000
    await switch_enforcement(connection, names, OFF, enabled=False)
    assert redis_client.ttl(names.enforcement) == -1
    await switch_enforcement(connection, names, ON, enabled=True)
    assert await read_switch(connection, names) == ""
    entries = [fields for _, fields in redis_client.xrange(names.ledger)]
    assert [entry["e"].split()[2] for entry in entries] == ["gateway:enforcement"] * 3
    assert '"enforcement.on"' in entries[-1]["d"]


async def test_it_runs_out_by_itself(connection: StoreConnection, tenant: str) -> None:
    """By the store's clock."""
    names = TenantKeys(tenant)
    await switch_enforcement(connection, names, OFF, enabled=False, lasting_s=1)
    async with asyncio.timeout(PATIENCE_S):
        while await read_switch(connection, names):
            await asyncio.sleep(0.05)


async def test_a_process_has_one_copy_for_each_tenant(agent: Agent, tenant: str) -> None:
    """Whoever holds it sees what the store said last."""
    switch = agent.store.switch_of(tenant)
    assert isinstance(switch, Switch)
    assert await agent.store.read_switch(tenant) is switch
    assert agent.store.switch_of("other") is not switch
