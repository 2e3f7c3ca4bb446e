"""Tasks of a roadmap, called for the first time."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest_asyncio

from gateway.core.budget import Amounts, TaskBudgetOverrides, TaskProfile
from gateway.core.errors import StoreError
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.roadmap import RoadmapTask
from gateway.ports import Doors
from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, OtherStore, bench, rules

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
OWN = TaskBudgetOverrides({WorkPhase.PLAN: Amounts(tokens=9_999)}, Decimal(2))
ROADMAP = {
    "T": RoadmapTask(TaskProfile(Complexity.LARGE, ImportanceTier.CRITICAL, OWN), "UP"),
    "BAD": RoadmapTask(problem="task BAD, budget_multiplier: 0 is no such number. Remedy: ..."),
}


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


async def call(serving: Bench, task: str, *lines: str) -> Any:
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: t", f"X-Task-Id: {task}", *lines]
    calls = len(serving.told.calls)
    async with serving.client() as client:
        data = "\r\n".join([*head, f"Content-Length: {len(BODY)}", "", ""]).encode() + BODY
        reply = await client.ask(data)
        await serving.recorded(calls + 1)
    return reply


async def test_a_task_is_created_as_the_roadmap_says(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """Whatever its headers say; then it is a task like others."""
    in_force = rules(roadmap=ROADMAP)
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        assert (await call(serving, "UP")).status == 200
        assert (await call(serving, "T", "X-Task-Complexity: Tiny")).status == 200
        assert (await call(serving, "T")).status == 200
        record = serving.told.calls[-1]
        assert (record.complexity, record.importance) == ("Large", "critical")
        task = serving.task("T")
        assert task["facts"].startswith("Large|critical|UP|")
        assert task["PLAN.tokens.L"] == "9999"
        assert task["THINK.tokens.L"] == str(4_000 * 3 * 3 // 2 * 2)
        assert serving.task("UP")["tokens.S"] == "45"


async def test_a_parent_of_the_roadmap_begins_with_its_first_child(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """As the roadmap says it is, with its own ancestors; it need not be called at all."""
    roadmap = {
        **ROADMAP,
        "UP": RoadmapTask(TaskProfile(Complexity.SMALL, ImportanceTier.LOW), "TOP"),
        "TOP": RoadmapTask(TaskProfile(importance=ImportanceTier.HIGH)),
    }
    async with bench(valkey, provider.base_url, tenant, rules(roadmap=roadmap)) as serving:
        assert (await call(serving, "T")).status == 200
        facts = [serving.task(task)["facts"].split("|")[:3] for task in ("T", "UP", "TOP")]
        assert facts == [
            ["Large", "critical", "UP,TOP"],
            ["Small", "low", "TOP"],
            ["Medium", "high", ""],
        ]
        assert [serving.task(task)["tokens.S"] for task in ("T", "UP", "TOP")] == ["15"] * 3
        assert (await call(serving, "UP", "X-Task-Complexity: Tiny")).status == 200
        assert serving.task("UP")["calls.S"] == "2"
        assert not serving.events("unknown_parent")
        told = serving.client_of_store.xrange(TenantKeys(tenant).ledger)
        begun = [e["e"].split()[2] for _, e in told if e["e"].startswith("task ")]
        assert begun == ["task:TOP", "task:UP", "task:T"]


async def test_a_roadmap_that_goes_round(valkey: str, provider: FakeProvider, tenant: str) -> None:
    """A task that is its own ancestor is one whose chain ends."""
    roadmap = {name: RoadmapTask(parent=up) for name, up in (("A", "B"), ("B", "A"))}
    async with bench(valkey, provider.base_url, tenant, rules(roadmap=roadmap)) as serving:
        assert (await call(serving, "A")).status == 200
        assert serving.task("A")["calls.S"] == "1"


async def test_EC17_a_child_of_a_task_that_the_roadmap_blocks(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """It is blocked as its parent is."""
    roadmap = {**ROADMAP, "T": RoadmapTask(parent="BAD")}
    async with bench(valkey, provider.base_url, tenant, rules(roadmap=roadmap)) as serving:
        reply = await call(serving, "T")
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["code"]) == (400, "task_blocked")
        assert "task BAD" in error["message"]


async def test_a_parent_that_cannot_be_begun(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """The call is made without it, and an event tells."""

    async def begin(*_: object) -> None:
        raise StoreError("timeout", "no answer")

    def deaf(doors: Doors) -> Doors:
        return replace(doors, store=OtherStore(doors.store, begin=begin))

    roadmap = {**ROADMAP, "UP": RoadmapTask()}
    in_force = rules(roadmap=roadmap)
    async with bench(valkey, provider.base_url, tenant, in_force, doors=deaf) as serving:
        assert (await call(serving, "T")).status == 200
        assert [event["parent"] for event in serving.events("unknown_parent")] == ["UP"]


async def test_EC17_a_task_that_the_roadmap_blocks(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """In every mode, with task and field, until the roadmap is right; not one that is there."""
    async with bench(valkey, provider.base_url, tenant, rules(roadmap=ROADMAP)) as serving:
        reply = await call(serving, "BAD")
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["code"]) == (400, "task_blocked")
        assert "task BAD, budget_multiplier" in error["message"]
        assert serving.task("BAD") == {}
        serving.lifecycle.metering.use_rules(rules())
        assert (await call(serving, "BAD")).status == 200
    async with bench(valkey, provider.base_url, tenant, rules(roadmap=ROADMAP)) as serving:
        assert (await call(serving, "BAD")).status == 200
        assert serving.task("BAD")["calls.S"] == "2"
