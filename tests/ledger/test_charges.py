"""A charge that is mended by hand: the store, the ledger and the audit agree, whatever came before."""

import json

import pytest
import redis
from msgspec import structs

from gateway.core.acts import Act
from gateway.core.usage import UsageSource
from gateway.ledger.charges import find_charge, read_charge
from gateway.ledger.entries import EntryReader
from gateway.ledger.schema import AUDIT
from gateway.ports import Background, TaskFacts
from gateway.store.connection import StoreConnection
from gateway.store.correction import Charge, LedgerBehind, correct_charge
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, Agent, Look, settlement

ACT = Act("call.correct", "ada", "the bill", {"tokens": "5"})
UP = TaskFacts(FACTS.complexity, FACTS.importance, ("UP",))


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, ledger_url: str) -> Desk:
    return Desk(tenant, connection, ledger_url)


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


@pytest.fixture
def look(redis_client: redis.Redis, tenant: str) -> Look:
    return Look(redis_client, tenant)


async def charge_of(desk: Desk, call_id: str) -> Charge:
    await desk.written()
    with desk.connect() as ledger:
        charge = find_charge(ledger, desk.tenant, call_id)
    assert charge is not None
    return charge


async def correct(desk: Desk, charge: Charge, tokens: int, nano_usd: int | None) -> bool:
    return await correct_charge(desk.store, desk.keys, charge, tokens, nano_usd, ACT)


async def test_a_mended_charge(agent: Agent, desk: Desk, look: Look) -> None:
    """Everywhere, down and up, once; what comes late changes nothing; who did it is on record."""
    await Agent(agent.store, agent.tenant, "UP").spend(0)
    plan, _ = await agent.reserve("PLAN", facts=UP)
    await agent.store.settle(settlement(plan, 17_000, 900, would_refuse=True))
    charge = await charge_of(desk, plan.call_id)
    assert (charge.tokens, charge.nano_usd, charge.phase, charge.execution) == (
        17_000,
        900,
        "PLAN",
        1,
    )
    assert await correct(desk, charge, 100, 7)
    with pytest.raises(LedgerBehind):  # until it is written
        await correct(desk, charge, 100, 7)
    mended = await charge_of(desk, plan.call_id)
    assert not await correct(desk, mended, 100, 7)
    for task, scope in (("T", ""), ("T", "PLAN."), ("UP", "")):
        assert look.settled(task, scope) == 100
        assert look.number(f"{scope}nano_usd.S", task) == 7
    assert (look.number("x.PLAN.1.tokens"), look.number("would_refuse.tokens")) == (100, 100)
    assert (await agent.store.settle(settlement(plan, 5))).duplicate
    row = desk.call(plan.call_id)
    assert (row["tokens"], row["nano_usd"], row["state"]) == (100, 7, "settled")
    assert (row["input_tokens"], row["at_ms"]) == (16_200, 1_000_000)
    assert row["corrected_ms"] is not None
    (entry,) = desk.rows(AUDIT)
    assert (entry["actor"], entry["action"], entry["subject"]) == ("ada", "call.correct", "T")
    assert json.loads(entry["details"]) == {"call": plan.call_id, "tokens": "5"}
    assert (await desk.verify()).differences == ()
    assert await correct(desk, mended, 200, None)
    await desk.written()
    assert desk.call(plan.call_id)["nano_usd"] is None
    assert (await desk.verify()).differences == ()


async def test_what_was_charged_its_hold(agent: Agent, desk: Desk, look: Look) -> None:
    """An expired call stays one; a late settlement does not undo what somebody mended."""
    plan, _ = await agent.reserve("VERIFY")
    agent.at(2_000_000)
    assert await agent.store.expire_due(agent.tenant) == [plan.call_id]
    assert await correct(desk, await charge_of(desk, plan.call_id), 60, 0)
    assert (await agent.store.settle(settlement(plan))).duplicate
    await desk.written()
    row = desk.call(plan.call_id)
    assert (row["state"], row["tokens"], row["expired_tokens"]) == ("expired", 60, 17_048)
    assert look.settled() == 60
    assert (await desk.verify()).differences == ()
    await desk.flush()
    await desk.rebuild()
    assert look.settled() == 60
    assert look.call(plan.call_id)["state"] == "corrected"


async def test_an_estimate_in_the_background(agent: Agent, desk: Desk, look: Look) -> None:
    """Mended before it is fetched: then the fetch changes nothing. After it, the store knows more."""
    plan, other = (await agent.reserve("PLAN"))[0], (await agent.reserve("PLAN"))[0]
    for each in (plan, other):
        queued = settlement(each, 9_000, source=UsageSource.ESTIMATED)
        await agent.store.settle(structs.replace(queued, background=Background.QUEUED))
    charge, stale = await charge_of(desk, plan.call_id), await charge_of(desk, other.call_id)
    assert charge.is_estimated
    assert await correct(desk, charge, 50, 0)
    done = structs.replace(settlement(plan, 70), background=Background.DONE)
    assert (await agent.store.settle(done)).duplicate
    await agent.store.settle(structs.replace(done, plan=other))
    with pytest.raises(LedgerBehind):
        await correct(desk, stale, 1, 0)
    await desk.written()
    assert (look.settled(), look.number("estimated.tokens")) == (120, 50)
    assert (await desk.verify()).differences == ()


async def test_a_release_that_the_ledger_has_not_seen(agent: Agent, desk: Desk) -> None:
    plan, _ = await agent.reserve("PLAN")
    agent.at(2_000_000)
    await agent.store.expire_due(agent.tenant)
    charge = await charge_of(desk, plan.call_id)
    await agent.store.release(plan)
    with pytest.raises(LedgerBehind):
        await correct(desk, charge, 1, 0)


async def test_a_trip_ends_where_the_mended_total_is_below_its_line(
    agent: Agent, desk: Desk, look: Look
) -> None:
    """The next call passes; a charge that is raised trips nothing by itself."""
    plan, _ = await agent.reserve("IMPLEMENT")
    await agent.store.settle(settlement(plan, 60_000))
    assert (await agent.call("VERIFY")).stop_code == "runaway_task"
    assert await correct(desk, await charge_of(desk, plan.call_id), 20_000, 0)
    assert (await agent.call("VERIFY", 10)).verdict.value == "held"
    assert await correct(desk, await charge_of(desk, plan.call_id), 90_000, 0)
    assert "trip" not in look.task()


async def test_a_raised_charge_that_crosses_a_level_is_told(agent: Agent, desk: Desk) -> None:
    """As one that was so from the beginning."""
    plan, _ = await agent.reserve("")
    await agent.store.settle(settlement(plan, 10))
    assert await correct(desk, await charge_of(desk, plan.call_id), 19_000, 0)
    ((entry_id, fields),) = await desk.store.execute("XRANGE", desk.keys.ledger, "-", "+")
    entry = dict(zip(fields[::2], fields[1::2], strict=True))
    rows = EntryReader(desk.tenant, 400).rows_of([(entry_id, entry)])
    assert [notice.kind.value for notice in rows.notices] == ["50", "80"]


async def test_a_ledger_by_its_url(agent: Agent, desk: Desk) -> None:
    """As the admin plane asks for a charge."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 7))
    await desk.written()
    charge = read_charge(desk.url, desk.tenant, plan.call_id)
    assert charge is not None and charge.tokens == 7
    assert read_charge(desk.url, desk.tenant, "nobody") is None
