"""Scenarios by requirement id, through two gateways on one store: a change made through one holds for
the very next call through the other.
"""

from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO = {"approver": "ann", "reason": "a scenario"}


async def call(
    gateway: Gateway, books: Gateway, task: str, phase: str = "VERIFY", tokens: int = 1_000
) -> Any:
    """Make one call and wait for its settlement, which `books` can see; return the answer."""
    before = books.number(task, "calls.S")
    async with gateway.client() as client:
        answer = await client.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]},
            headers={
                **{"Authorization": "Bearer sk-test", "X-Task-Id": task, "X-Task-Phase": phase},
                "X-Fake-Prompt-Tokens": str(tokens),
                "X-Fake-Completion-Tokens": "0",
            },
        )
    if answer.status_code == 200:
        await books.settled(task, before + 1)
    return answer


async def test_a_change_through_one_gateway_holds_for_the_next_call_through_the_other(
    start_gateway: StartGateway, enforcing: Gateway, task: str
) -> None:
    """OVR-1, EC17, SL-5, SL-12, EC9: registration, block, kill, resume, gate, grant, phases."""
    one = enforcing
    other = await start_gateway(mode="enforce", TOLLGATE_REDIS__URL=one.store_url)

    path = "/admin/v1/tasks"
    bad = await one.admin("POST", path, {"id": task, "budget_overrides": {"plan": {"tokens": "x"}}})
    assert (bad.status_code, bad.json()["error"]["field"]) == (422, "budget_overrides.plan.tokens")
    assert refusal(await call(other, one, task)) == "task_blocked"
    good = {"id": task, "complexity": "Tiny", "budget_overrides": {"plan": {"tokens": 4_000}}}
    assert (await one.admin("POST", path, good)).json()["outcome"] == "unblocked"
    assert (await call(other, one, task, "PLAN")).status_code == 200
    assert one.number(task, "PLAN.tokens.L") == 4_000

    await one.admin("POST", f"{path}/{task}/kill", WHO)
    assert refusal(await call(other, one, task)) == "task_killed"
    await other.admin("POST", f"{path}/{task}/resume", WHO)
    assert (await call(one, one, task, "PLAN")).status_code == 200

    await other.admin("POST", f"{path}/{task}/phases/THINK/start", {})
    started = await one.admin("POST", f"{path}/{task}/phases/PLAN/start", {})
    assert started.json()["execution"] == 2
    assert (await call(other, one, task, "PLAN", 30_000)).status_code == 200
    assert one.number(task, "x.PLAN.2.tokens") == 30_000

    shut = await one.admin("POST", f"{path}/{task}/gate", {"to": "REVIEW"})
    assert (shut.status_code, shut.json()["error"]["code"]) == (409, "BudgetExceeded")
    assert "exceeded token budget: 32,000 / " in shut.json()["error"]["message"]
    assert refusal(await call(other, one, task, "PLAN")) in ("task_budget_exceeded", "runaway_task")
    assert (await other.override(task, kind="grant", tokens=50_000)).status_code == 201
    assert (await one.admin("POST", f"{path}/{task}/gate", {"to": "REVIEW"})).status_code == 200
    assert (await call(one, one, task)).status_code == 200

    await one.admin("POST", f"{path}/{task}/complete", WHO)
    assert (await call(other, one, task, "PLAN")).status_code == 200
    assert one.number(task, "PLAN.exec") == 3
    assert one.task(task)["state"] == "reopened"


def refusal(answer: Any) -> str:
    """The code of a refusal."""
    assert answer.status_code == 400, answer.text
    code: str = answer.json()["error"]["code"]
    return code
