"""Scenarios by requirement id, through two gateways on one store: a change made through one holds for
the very next call through the other.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from gateway.store.windows import WINDOW_FIELDS
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import PATIENCE_S, ROOT, Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

STOPPED = ("task_budget_exceeded", "runaway_task")
WHO = {"approver": "ann", "reason": "a scenario"}
LINE_NANO_USD = 50_000_000
INPUT_NANO_USD, OUTPUT_NANO_USD = 2_500, 10_000  # of a token of gpt-4o
SPENDERS = """\
kind: stop_loss
name: spenders
mode: enforce
match: {team: [spenders]}
reserve: worst_case
"""
DAILY = """\
kind: spend_limit
name: daily
mode: enforce
match: {team: [spenders]}
window: day
timezone: ZONE
hard: {cost_usd: 0.05}
"""


class Pair(NamedTuple):
    """Two gateways on one store, under the same policies."""

    one: Gateway
    other: Gateway


def zone_at_noon() -> str:
    """A time zone in which no day ends during a test."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(
    tmp_path_factory: pytest.TempPathFactory, _one_provider: FakeProvider
) -> AsyncIterator[Pair]:
    """One worker each, enforcing what is shipped; and two policies for keys of a team."""
    folder: Path = tmp_path_factory.mktemp("pair")
    policies = folder / "policies"
    policies.mkdir()
    for file in (ROOT / "policies").glob("*.yaml"):
        shutil.copy(file, policies)
    (policies / "0-spenders.yaml").write_text(SPENDERS)
    (policies / "daily.yaml").write_text(DAILY.replace("ZONE", zone_at_noon()))
    options: dict[str, Any] = {"mode": "enforce", "TOLLGATE_POLICIES__DIR": str(policies)}
    async with Gateway(folder / "one", _one_provider.base_url, **options) as one:
        options["TOLLGATE_REDIS__URL"] = one.store_url
        async with Gateway(folder / "other", _one_provider.base_url, **options) as other:
            yield Pair(one, other)


async def call(
    gateway: Gateway,
    books: Gateway,
    task: str,
    phase: str = "VERIFY",
    tokens: int = 1_000,
    headers: dict[str, str] | None = None,
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
                **(headers or {}),
            },
        )
    if answer.status_code == 200:
        await books.settled(task, before + 1)
    return answer


async def test_a_change_through_one_gateway_holds_for_the_next_call_through_the_other(
    pair: Pair, provider: FakeProvider, task: str
) -> None:
    """OVR-1, EC17, SL-5, SL-12, EC9: registration, block, kill, resume, gate, grant, phases."""
    one, other = pair

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
    assert refusal(await call(other, one, task, "PLAN")) in STOPPED
    assert (await other.override(task, kind="grant", tokens=50_000)).status_code == 201
    assert (await one.admin("POST", f"{path}/{task}/gate", {"to": "REVIEW"})).status_code == 200
    assert (await call(one, one, task)).status_code == 200

    await enforcement_is_switched(one, other, task)
    await a_key_is_revoked(one, other, f"{task}-k")

    await one.admin("POST", f"{path}/{task}/complete", WHO)
    assert (await call(other, one, task, "PLAN")).status_code == 200
    assert one.number(task, "PLAN.exec") == 3
    assert one.task(task)["state"] == "reopened"


async def enforcement_is_switched(one: Gateway, other: Gateway, task: str) -> None:
    """RBK-2: off through one, the other refuses nothing from the next call on; and on again."""
    path = "/admin/v1/enforcement"
    assert (await call(one, one, task, tokens=90_000)).status_code == 200
    assert refusal(await call(other, one, task)) in STOPPED
    off = await other.admin("POST", path, {"enabled": False, **WHO})
    assert off.json()["enforcing"] is False
    for gateway in (one, other):
        answer = await call(gateway, one, task)
        assert answer.status_code == 200
        assert answer.headers["x-tollgate-decision"] == "flag"
    assert one.number(task, "would_refuse.calls") == 2
    on = await one.admin("POST", path, {"enabled": True, **WHO})
    assert on.json()["enforcing"] is True
    for gateway in (other, one):
        assert refusal(await call(gateway, one, task)) in STOPPED
    assert (await one.override(task, kind="grant", tokens=200_000)).status_code == 201


async def a_key_is_revoked(one: Gateway, other: Gateway, task: str) -> None:
    """Its copies are old with the next call on every gateway."""
    made = (await one.admin("POST", "/admin/v1/keys", {"name": "ci"})).json()
    paid = {"X-Tollgate-Key": made["key"]}
    assert (await call(other, one, task, "PLAN", headers=paid)).status_code == 200
    revoked = await one.admin("POST", f"/admin/v1/keys/{made['id']}/revoke", {"by": "ann"})
    assert revoked.status_code == 200
    assert (await call(other, one, task, "PLAN", headers=paid)).status_code == 401


async def test_sums_are_exact_for_50_tasks_with_4_callers_each(
    pair: Pair, provider: FakeProvider
) -> None:
    """PM3: in four phases, over two gateways; what each was charged is what was served for it."""
    one, other = pair
    tasks = [f"many-{number}" for number in range(50)]
    phases = ("PLAN", "THINK", "IMPLEMENT", "VERIFY")
    wanted: dict[str, int] = {}

    async def caller(client: httpx.AsyncClient, number: int, task: str, phase: str) -> None:
        for turn in range(3):
            tokens = 10 + number * 7 + turn
            wanted[f"{task} {phase}"] = wanted.get(f"{task} {phase}", 0) + tokens + 2
            answer = await client.post(
                "/v1/chat/completions",
                json={"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]},
                headers={
                    **{"Authorization": "Bearer sk-test", "X-Task-Id": task},
                    **{"X-Task-Phase": phase, "X-Fake-Prompt-Tokens": str(tokens)},
                    "X-Fake-Completion-Tokens": "2",
                },
            )
            assert answer.status_code == 200

    async with one.client() as first, other.client() as second:
        clients = (first, second)
        await asyncio.gather(
            *(
                caller(clients[place % 2], number, task, phase)
                for number, task in enumerate(tasks)
                for place, phase in enumerate(phases)
            )
        )
    for task in tasks:
        fields = await one.settled(task, 12)
        for phase in phases:
            assert int(fields[f"{phase}.tokens.S"]) == wanted[f"{task} {phase}"]
        assert int(fields["tokens.S"]) == sum(wanted[f"{task} {phase}"] for phase in phases)
        assert one.held(task) == (0, 0, 0, 0)
    served = provider.totals()
    assert served.prompt_tokens + served.completion_tokens == sum(wanted.values())


async def test_GW11_a_key_stays_within_its_dollars_of_a_day_over_two_gateways(
    pair: Pair, provider: FakeProvider, task: str
) -> None:
    """Whatever comes at once: what was charged is what was served, and never above the line."""
    one, other = pair
    made = (await one.admin("POST", "/admin/v1/keys", {"name": "s", "team": "spenders"})).json()
    provider.script(lambda _: Script(prompt_tokens=None, completion_tokens=100_000))
    said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "go on"}]}

    async def ask(client: httpx.AsyncClient, number: int) -> httpx.Response:
        return await client.post(
            "/v1/chat/completions",
            json={**said, "max_tokens": 200 + 50 * number},
            headers={
                **{"Authorization": "Bearer sk-test", "X-Tollgate-Key": made["key"]},
                **{"X-Task-Id": f"{task}-{number}", "X-Task-Phase": "PLAN"},
            },
        )

    async def spend(client: httpx.AsyncClient, number: int) -> int:
        """Make calls until one is refused for good; return how many passed."""
        passed = 0
        while True:
            answer = await ask(client, number)
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "budget_in_flight"
                await asyncio.sleep(0.01)
            elif answer.status_code == 200:
                passed += 1
            else:
                assert refusal(answer) == "spend_limit_exceeded"
                assert f"Spend limit daily of key {made['id']}" in answer.text
                return passed

    async with one.client() as first, other.client() as second, asyncio.timeout(PATIENCE_S):
        clients = (first, second)
        passed = await asyncio.gather(*(spend(clients[n % 2], n) for n in range(6)))
        [window] = one.store.keys(one.keys.window_named(f"daily:key:{made['id']}@*"))
        while int(one.store.hget(window, "calls.H") or 0):
            await asyncio.sleep(0.01)
        for client in clients:
            assert refusal(await ask(client, 0)) == "spend_limit_exceeded"
    values = one.store.hmget(window, WINDOW_FIELDS)
    fields = dict(zip(WINDOW_FIELDS, map(int, values), strict=True))
    served = provider.totals()
    spent = served.prompt_tokens * INPUT_NANO_USD + served.completion_tokens * OUTPUT_NANO_USD
    assert fields["nano_usd.S"] == spent
    assert LINE_NANO_USD // 2 < spent <= LINE_NANO_USD
    assert fields["tokens.S"] == served.prompt_tokens + served.completion_tokens
    assert fields["calls.S"] == served.calls == sum(passed)
    assert (fields["tokens.H"], fields["nano_usd.H"]) == (0, 0)


def refusal(answer: Any) -> str:
    """The code of a refusal."""
    assert answer.status_code == 400, answer.text
    code: str = answer.json()["error"]["code"]
    return code
