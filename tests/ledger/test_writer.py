"""What happened in the store is in the ledger, once, whoever dies in between."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from msgspec import structs
from sqlalchemy import text

from gateway.core.budget import Amounts
from gateway.core.call_facts import CallAbout, CallOutcome, CrossedLine, Standing
from gateway.core.overrides import Override, OverrideKind
from gateway.core.usage import Usage, UsageSource
from gateway.ledger.schema import (
    ANCESTRY,
    AUDIT,
    BREACHES,
    OVERRIDES,
    PHASE_EXECUTIONS,
    REJECTED,
    TASKS,
)
from gateway.ports import Background, ReservePlan, Settlement
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests.ledger.desk import Desk
from tests.store.agent import FACTS, LIMITS, Agent, settlement

ABOUT = CallAbout(
    model="gpt-4o",
    upstream="openai",
    dialect="openai_chat",
    method="POST",
    path="/v1/chat/completions",
    complexity="Medium",
    importance="medium",
    tags={"phase": "PLAN"},
    policy="stop-loss",
    mode="enforce",
    policy_hash="p1",
    config_hash="c1",
)
USAGE = Usage(
    input_total=90,
    cached_read=20,
    cache_write=10,
    output_total=10,
    reasoning=4,
    cache_write_1h=6,
    web_searches=2,
    images=1,
    terms="priority",
)
OUTCOME = CallOutcome(
    decision="flag",
    status=200,
    would_refuse=True,
    usage=USAGE,
    source="provider",
    priced=True,
    model_served="gpt-4o-2024-08-06",
    latency_ms=1_500,
    first_byte_ms=300,
    breaches=(CrossedLine("task", "T", "tokens", 9, 8, 7),),
    task_tokens=Standing(1, 2, 3),
    phase_tokens=Standing(4, 5, 6),
)
UNPRICED = CallOutcome(decision="allow", usage=Usage(input_total=10))


def ended(plan: ReservePlan, tokens: int, nano_usd: int = 0) -> Settlement:
    """What OUTCOME tells, as the store is told."""
    return settlement(plan, tokens, nano_usd, usage=USAGE, would_refuse=True, outcome=OUTCOME)


@pytest.fixture
def desk(connection: StoreConnection, tenant: str, ledger_url: str) -> Desk:
    """A ledger for the tenant, of either kind of database."""
    return Desk(tenant, connection, ledger_url)


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T; the time is 1,000,000."""
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


async def test_a_settled_call_is_one_row_with_everything(agent: Agent, desk: Desk) -> None:
    """Ids, tags, tiers, models, buckets, money, times, decision, S, H and C, numbers, hashes."""
    plan, _ = await agent.reserve("PLAN", about=ABOUT)
    agent.at(1_002_000)
    await agent.store.settle(ended(plan, 100, 5))
    await desk.written()
    row = desk.call(plan.call_id)
    assert row.pop("number") > row.pop("reserve_number")
    assert {name: value for name, value in row.items() if value is not None} == {
        "tenant": desk.tenant,
        "call_id": plan.call_id,
        "state": "settled",
        "task": "T",
        "phase": "PLAN",
        "execution": 1,
        "started_ms": 1_000_500,
        "at_ms": 1_002_000,
        "complexity": "Medium",
        "importance": "medium",
        "tags": '{"phase":"PLAN"}',
        "model": "gpt-4o",
        "model_served": "gpt-4o-2024-08-06",
        "upstream": "openai",
        "dialect": "openai_chat",
        "method": "POST",
        "path": "/v1/chat/completions",
        "stream": False,
        "decision": "flag",
        "status": 200,
        "would_refuse": True,
        "breaches": '[["task","T","tokens",9,8,7]]',
        "policy": "stop-loss",
        "mode": "enforce",
        "policy_hash": "p1",
        "config_hash": "c1",
        "input_tokens": 90,
        "cached_read_tokens": 20,
        "cache_write_tokens": 10,
        "output_tokens": 10,
        "reasoning_tokens": 4,
        "cache_write_1h_tokens": 6,
        "web_searches": 2,
        "seconds": 0,
        "characters": 0,
        "images": 1,
        "terms": "priority",
        "usage_source": "provider",
        "tokens": 100,
        "nano_usd": 5,
        "held_tokens": 17_048,
        "held_nano_usd": 0,
        "latency_ms": 1_500,
        "generation": 1,
        "first_byte_ms": 300,
        "client_left": False,
        "task_latency_ms": 2_000,
        "phase_latency_ms": 2_000,
        "spent_tokens": 1,
        "others_held_tokens": 2,
        "line_tokens": 3,
        "phase_spent_tokens": 4,
        "phase_others_held_tokens": 5,
        "phase_line_tokens": 6,
    }
    (task,) = desk.rows(TASKS, "task")
    assert (task["task"], task["created_ms"], task["complexity"]) == ("T", 1_000_000, "Medium")
    assert task["config_hash"] == LIMITS.config_hash
    (execution,) = desk.rows(PHASE_EXECUTIONS, "task")
    assert (execution["phase"], execution["execution"]) == ("PLAN", 1)
    assert (execution["started_ms"], execution["tokens_limit"]) == (1_000_000, 2_400)
    assert (await desk.verify()).differences == ()


async def test_a_refusal_is_a_row_and_a_trip_a_breach(agent: Agent, desk: Desk) -> None:
    """With the balances that it was decided on, and why."""
    await agent.spend(31_600)
    plan, receipt = await agent.reserve("VERIFY", about=ABOUT)
    again, _ = await agent.reserve("VERIFY")
    await desk.written(refusal_status=402)
    row = desk.call(plan.call_id)
    assert receipt.stop_code == row["code"] == "task_budget_exceeded"
    assert (row["state"], row["decision"], row["status"]) == ("refused", "refuse", 402)
    assert (row["spent_tokens"], row["others_held_tokens"], row["line_tokens"]) == (
        31_600,
        0,
        28_080,
    )
    assert (row["phase"], row["model"], row["tokens"]) == ("VERIFY", "gpt-4o", 0)
    assert row["number"] == row["reserve_number"]
    assert desk.call(again.call_id)["state"] == "refused"
    breaches = {row["effect"]: row for row in desk.rows(BREACHES, "effect")}
    assert set(breaches) == {"refuse", "trip"}
    trip = breaches["trip"]
    assert (trip["scope"], trip["name"], trip["dimension"]) == ("task", "T", "tokens")
    assert (trip["used"], trip["allowed"], trip["line"]) == (31_600, 23_400, 28_080)
    assert (trip["episode"], trip["call_id"]) == (1, plan.call_id)
    assert (await desk.verify()).differences == ()


async def test_every_end_of_a_call(agent: Agent, desk: Desk) -> None:
    """Released, expired, expired and then settled or released: one row each, the latest word."""
    released, _ = await agent.reserve("PLAN")
    await agent.store.release(released, CallOutcome(decision="allow", status=502))
    plans = [(await agent.reserve("PLAN", about=ABOUT))[0] for _ in range(3)]
    agent.at(1_040_000)
    assert len(await agent.store.expire_due(desk.tenant)) == 3
    await desk.written()
    expired, settled, given_back = (plan.call_id for plan in plans)
    held = desk.call(expired)["held_tokens"]
    for call_id in (expired, settled, given_back):
        row = desk.call(call_id)
        assert (row["state"], row["tokens"], row["model"]) == ("expired", held, "gpt-4o")
        assert row["reserve_number"] is not None
    await agent.store.settle(ended(plans[1], 50))
    await agent.store.release(plans[2])
    await desk.written()
    assert (desk.call(settled)["state"], desk.call(settled)["tokens"]) == ("settled", 50)
    assert desk.call(settled)["expired_tokens"] == held
    assert desk.call(settled)["task_latency_ms"] + desk.call(expired)["task_latency_ms"] in (
        0,
        40_000,
    )
    assert (desk.call(given_back)["state"], desk.call(given_back)["tokens"]) == ("released", 0)
    assert desk.call(released.call_id)["status"] == 502
    assert len(desk.rows()) == 4
    assert (await desk.verify()).differences == ()


async def test_an_answer_in_the_background_ends_as_one_row(agent: Agent, desk: Desk) -> None:
    """Charged its hold, then what it used: with the decision, hold and times of the call itself."""
    plan, _ = await agent.reserve("PLAN", about=ABOUT)
    agent.at(1_002_000)
    queued = structs.replace(
        ended(plan, 17_000, 900),
        usage=Usage(input_total=15_000, output_total=2_000),
        source=UsageSource.ESTIMATED,
        outcome=structs.replace(OUTCOME, source="estimated"),
        background=Background.QUEUED,
    )
    await agent.store.settle(queued)
    await desk.written()
    assert desk.call(plan.call_id)["tokens"] == 17_000
    agent.at(1_900_000)
    for _ in range(2):
        await agent.store.settle(structs.replace(ended(plan, 100, 5), background=Background.DONE))
    await desk.written()
    (row,) = desk.rows()
    assert (row["tokens"], row["nano_usd"], row["usage_source"]) == (100, 5, "provider")
    assert (row["input_tokens"], row["output_tokens"], row["images"]) == (90, 10, 1)
    assert (row["started_ms"], row["at_ms"]) == (1_000_500, 1_900_000)
    assert (row["held_tokens"], row["held_nano_usd"], row["task_latency_ms"]) == (17_048, 0, 2_000)
    assert (row["decision"], row["would_refuse"], row["line_tokens"]) == ("flag", True, 3)
    assert (await desk.verify()).differences == ()


async def test_money_without_a_price_is_not_nothing(agent: Agent, desk: Desk) -> None:
    """An unknown price is null, and the sums agree all the same."""
    plan, _ = await agent.reserve()
    usage = UNPRICED.usage
    await agent.store.settle(settlement(plan, 10, usage=usage, outcome=UNPRICED))
    await desk.written()
    assert desk.call(plan.call_id)["nano_usd"] is None
    assert (await desk.verify()).differences == ()


async def test_untagged_calls_and_parents(agent: Agent, desk: Desk) -> None:
    """Buckets have no snapshot; a child's usage and time count for its ancestors."""
    agent.task, agent.limits = "-anonymous", None
    await agent.call()
    agent.limits = LIMITS
    agent.task, agent.facts = "UP", FACTS
    await agent.call("PLAN")
    agent.task = "T"
    agent.facts = type(FACTS)(FACTS.complexity, FACTS.importance, ("UP", "TOP"))
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_007_000)
    await agent.store.settle(ended(plan, 70, 7))
    await desk.written()
    tasks = {row["task"]: row for row in desk.rows(TASKS, "task")}
    assert set(tasks) == {"-anonymous", "T", "UP"}
    assert tasks["-anonymous"]["snapshot"] is None
    assert [(row["ancestor"], row["depth"]) for row in desk.rows(ANCESTRY, "depth")] == [
        ("UP", 1),
        ("TOP", 2),
    ]
    verified = await desk.verify()
    assert verified.differences == ()
    assert verified.tasks == 3


async def test_an_override_is_recorded_and_audited(agent: Agent, desk: Desk) -> None:
    """SL-12: approver, reason, time; and what it does."""
    await agent.call("PLAN")
    await agent.override(
        Override(OverrideKind.GRANT, "ann", "nearly done", 1_000_000, amounts=Amounts(tokens=9))
    )
    await agent.override(
        Override(OverrideKind.MULTIPLIER, "bob", "big", 1_000_001, 2_000_000, factor=Decimal("1.5"))
    )
    await desk.written()
    grant, factor = desk.rows(OVERRIDES)
    assert (grant["kind"], grant["tokens"], grant["approver"]) == ("grant", 9, "ann")
    assert (factor["factor"], factor["expires_ms"]) == ("1.5", 2_000_000)
    entry, _ = desk.rows(AUDIT)
    assert (entry["actor"], entry["action"], entry["subject"]) == ("ann", "override.grant", "T")
    assert entry["reason"] == "nearly done"


async def test_numbers_are_the_order_of_things(agent: Agent, desk: Desk) -> None:
    """Reserves and settlements are numbered as the store made them, within one moment too."""
    one, _ = await agent.reserve("PLAN")
    two, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(two))
    await agent.store.settle(settlement(one))
    await desk.written()
    first, second = desk.call(one.call_id), desk.call(two.call_id)
    numbers = (
        *(first["reserve_number"], second["reserve_number"]),
        *(second["number"], first["number"]),
    )
    assert len(set(numbers)) == 4
    assert list(numbers) == sorted(numbers)


async def test_entries_that_come_again_change_nothing(
    agent: Agent, desk: Desk, redis_client: redis.Redis
) -> None:
    """A writer that died after its commit and before it said so: the same batch comes again."""
    await agent.call("PLAN")
    entries = redis_client.xrange(desk.keys.ledger)
    await desk.written()
    before = desk.rows(), desk.rows(TASKS, "task"), desk.rows(PHASE_EXECUTIONS, "task")
    for _, fields in entries:
        redis_client.xadd(desk.keys.ledger, fields)
    await desk.written()
    assert (desk.rows(), desk.rows(TASKS, "task"), desk.rows(PHASE_EXECUTIONS, "task")) == before


async def test_what_a_dead_writer_had_read_is_written(
    agent: Agent, desk: Desk, redis_client: redis.Redis
) -> None:
    """It was delivered to it and never confirmed: its successor begins with that."""
    await desk.written()
    await agent.call("PLAN")
    redis_client.xreadgroup("ledger", "writer", {desk.keys.ledger: ">"})
    await agent.call("PLAN")
    await desk.written()
    assert len(desk.rows()) == 2
    assert (await desk.verify()).differences == ()


async def test_what_cannot_be_understood_is_set_aside(
    agent: Agent, desk: Desk, redis_client: redis.Redis
) -> None:
    """It never holds up what comes after it; the figures and texts of hostile clients least."""
    redis_client.xadd(desk.keys.ledger, {"e": "nonsense"})
    redis_client.xadd(desk.keys.ledger, {"e": f"override 1 task:T {1 << 70}", "d": "{}"})
    about = CallAbout(model="a\0b", path="/v1/\N{SNOWMAN}")
    plan, _ = await agent.reserve("PLAN", about=about)
    usage = Usage(input_total=1 << 80, output_total=1)
    outcome = CallOutcome(decision="allow", usage=usage, model_served="\0")
    await agent.store.settle(settlement(plan, 10**30, outcome=outcome, usage=usage))
    await desk.written()
    assert len(desk.rows(REJECTED, "entry_id")) == 2
    assert desk.said("ledger_entry_rejected")
    row = desk.call(plan.call_id)
    assert (row["model"], row["path"], row["tokens"]) == ("ab", "/v1/\N{SNOWMAN}", 10**13)


async def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    agent: Agent, desk: Desk, redis_client: redis.Redis
) -> None:
    """A number beyond its range: alone it is set aside, the batch is written."""
    await agent.call("PLAN")
    words = f"settled 1 task:T bad {1 << 70} 0 PLAN 1 1 1 1 1 0,0"
    redis_client.xadd(desk.keys.ledger, {"e": words, "a": "[]", "o": "[]"})
    await agent.call("PLAN")
    await desk.written()
    assert len(desk.rows()) == 2
    assert len(desk.rows(REJECTED, "entry_id")) == 1


async def test_two_writers_of_one_ledger(agent: Agent, desk: Desk) -> None:
    """The second stands by; when the first ends, it goes on."""
    async with desk.writing() as first:
        await _until(lambda: first.state.writing)
        async with desk.writing() as second:
            await agent.call("PLAN")
            await desk.until_written()
            assert not second.state.writing
            first.stop()
            await _until(lambda: second.state.writing)
            await agent.call("PLAN")
            await desk.until_written()
    assert len(desk.rows()) == 2


async def test_another_ledger_does_not_take_half_of_it(
    agent: Agent, desk: Desk, tmp_path: Path
) -> None:
    """A second ledger on the same store says what is wrong, and leaves the stream alone."""
    other = Desk(desk.tenant, desk.store, f"sqlite:///{tmp_path / 'other.db'}")
    async with desk.writing() as writer:
        await _until(lambda: writer.state.writing)
        await agent.call("PLAN")
        await desk.until_written()
        async with other.writing():
            await _until(lambda: other.said("ledger_has_another_writer"))
            await agent.call("PLAN")
            await desk.until_written()
    assert len(desk.rows()) == 2
    assert other.rows() == []


async def _until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_estimates_are_marked(agent: Agent, desk: Desk) -> None:
    """The share of estimates can be told (GW-4)."""
    plan, _ = await agent.reserve("PLAN")
    outcome = CallOutcome(decision="allow", source="estimated", usage=USAGE, priced=True)
    await agent.store.settle(
        settlement(plan, 100, usage=USAGE, source=UsageSource.ESTIMATED, outcome=outcome)
    )
    await desk.written()
    assert desk.call(plan.call_id)["usage_source"] == "estimated"
    assert (await desk.verify()).differences == ()


async def test_what_is_wrong_with_the_database_is_not_the_entries_fault(
    agent: Agent, desk: Desk
) -> None:
    """A table that is gone, or may not be written: nothing is set aside, all is written later."""
    async with desk.writing() as writer:
        await _until(lambda: writer.state.writing)
        _execute(desk, "ALTER TABLE calls RENAME TO hidden")
        await agent.call("PLAN")
        await _until(lambda: desk.said("ledger_database_failed"))
        _execute(desk, "ALTER TABLE hidden RENAME TO calls")
        await desk.until_written()
    assert len(desk.rows()) == 1
    assert desk.rows(REJECTED, "entry_id") == []


def _execute(desk: Desk, statement: str) -> None:
    with desk.engine.begin() as connection:
        connection.execute(text(statement))


async def test_a_database_is_one_tenant_s(agent: Agent, desk: Desk) -> None:
    """Another tenant's writer leaves it alone, says why, and its entries wait."""
    await desk.written()
    other = replace(desk, tenant=f"{desk.tenant}-b", events=[])
    agent.tenant = other.tenant
    await agent.call("PLAN")
    writer = other.writer()
    running = asyncio.ensure_future(writer.run())
    await _until(lambda: other.said("ledger_database_failed"))
    writer.stop()
    await running
    [told] = other.said("ledger_database_failed")
    assert f"is the ledger of tenant {desk.tenant}. Remedy: give each tenant" in told["error"]
    assert desk.rows() == []
    assert await desk.store.execute("XLEN", other.keys.ledger) > 0
