"""Tasks of a roadmap, called for the first time."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest_asyncio

from gateway.core.budget import Amounts, TaskBudgetOverrides, TaskProfile
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.roadmap import RoadmapTask
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, bench, rules

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
