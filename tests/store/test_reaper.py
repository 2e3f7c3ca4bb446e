"""The reaper: sweeps all tenants, charges each dead call once, survives a store that is away."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.ports import CallRecord
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.reaper import Reaper
from gateway.store.redis_store import RedisStore
from tests.store.agent import NOTHING_HELD, OBSERVE, Agent, Look


class Notes:
    """A recorder that keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.more = asyncio.Event()

    def call(self, record: CallRecord) -> None:
        """Not used by the reaper."""

    def event(self, name: str, level: str = "info", **fields: object) -> None:
        self.events.append((name, {"level": level, **fields}))
        self.more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 10)


async def test_a_sweep_charges_what_is_due_in_all_tenants(agent: Agent, look: Look) -> None:
    """More than a batch of it, and reports each call."""
    agent = replace(agent, effects=OBSERVE)
    other = replace(agent, tenant=f"{agent.tenant}-other")
    plans = [(await agent.reserve("PLAN"))[0] for _ in range(103)]
    plans.append((await other.reserve("PLAN"))[0])
    agent.at(1_030_000)
    notes = Notes()
    reaper = Reaper(agent.store, (agent.tenant, other.tenant, "nobody"), notes, 1_000)
    assert await reaper.sweep() == 104
    assert await reaper.sweep() == 0
    assert look.held() == NOTHING_HELD
    assert look.settled() == 103 * 17_048
    assert {fields["call_id"] for _, fields in notes.events} == {plan.call_id for plan in plans}
    assert {name for name, _ in notes.events} == {"call_expired"}


async def test_two_reapers_at_once_charge_each_call_once(
    agent: Agent, look: Look, valkey: str
) -> None:
    """On two connections, sweep by sweep in one another's way."""
    agent = replace(agent, effects=OBSERVE)
    plans = [(await agent.reserve("PLAN"))[0] for _ in range(150)]
    agent.at(1_030_000)
    other = StoreConnection(parse_store_url(valkey))
    await other.open()
    notes = Notes()
    stores = (agent.store, RedisStore(other, now_ms="1030000"))
    reapers = [Reaper(store, (agent.tenant,), notes, 1_000) for store in stores]
    total = 0
    while look.leases():
        total += sum(await asyncio.gather(*(reaper.sweep() for reaper in reapers)))
    await other.close()
    assert total == len(notes.events) == len(plans)
    assert look.settled() == len(plans) * 17_048
    assert look.number("expired.calls") == len(plans)
    assert look.held() == NOTHING_HELD


async def test_the_reaper_goes_on_sweeping(agent: Agent, look: Look) -> None:
    """Until it is cancelled."""
    agent = replace(agent, store=RedisStore(agent.store.connection, lease_ms=0))
    notes = Notes()
    task = asyncio.ensure_future(Reaper(agent.store, (agent.tenant,), notes, 1).run())
    for calls in (1, 2):
        await agent.reserve("PLAN")
        await notes.until(lambda calls=calls: len(notes.events) == calls)  # type: ignore[misc]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert look.settled() == 2 * 17_048


async def test_a_store_that_is_away_is_tried_again(tmp_path: Path) -> None:
    """The reaper reports it, and lives."""
    nowhere = StoreConnection(parse_store_url(f"unix://{tmp_path}/nobody"))
    notes = Notes()
    reaper = Reaper(RedisStore(nowhere), ("default",), notes, 1)
    task = asyncio.ensure_future(reaper.run())
    await notes.until(lambda: len(notes.events) >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert notes.events[0] == ("reaper_failed", {"level": "warning", "reason": "unreachable"})


async def test_a_store_that_lost_its_data_is_told_of(agent: Agent, look: Look) -> None:
    """Once, and as loudly as can be: every total began anew."""
    notes = Notes()
    reaper = Reaper(agent.store, (agent.tenant,), notes, 1)
    for _ in range(2):
        await reaper.look_for_losses()
    assert notes.events == []
    look.client.delete(look.keys.epoch)
    for _ in range(2):
        await reaper.look_for_losses()
    assert [name for name, _ in notes.events] == ["store_lost_data"]
