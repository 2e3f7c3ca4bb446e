"""`GET /v1/budget`, asked by an agent."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio

from gateway.core.budget import Amounts
from gateway.core.errors import StoreError
from gateway.core.keys import GatewayKey, secret_digest
from gateway.core.policy_base import Mode
from gateway.core.sessions import Binding
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.windows import Span
from gateway.store.key_store import KeyStore
from gateway.store.keys import TenantKeys
from gateway.store.sessions import bind_session
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, OtherStore, bench, rules

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


async def ask(serving: Bench, *lines: str, target: str = "/v1/budget") -> Any:
    """Ask for the budget; return the answer's head and its body."""
    head = [f"GET {target} HTTP/1.1", "Host: t", *lines, "", ""]
    async with serving.client() as client:
        return await client.ask("\r\n".join(head).encode())


async def test_GW8_an_agent_asks_for_its_own_budget(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """Before and after its calls; nothing is counted, created or sent to the provider."""
    async with bench(valkey, provider.base_url, tenant) as serving:
        new = json.loads((await ask(serving, "X-Task-Id: T", "X-Task-Complexity: Large")).body)
        assert (new["task"]["state"], new["phase"]) == ("new", None)
        assert new["task"]["budgets"]["tokens"]["limit"] == 35_100
        assert serving.task("T") == {}

        async with serving.client() as client:
            post = b"POST /t/T/PLAN/v1/chat/completions HTTP/1.1\r\nHost: t\r\n"
            await client.ask(post + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            await serving.recorded(1)
        reply = await ask(serving, target="/t/T/-/v1/budget?now=1")
        told = json.loads(reply.body)
        assert reply.status == 200
        assert (told["task"]["id"], told["task"]["state"]) == ("T", "open")
        assert told["task"]["budgets"]["tokens"]["used"] == 15
        assert told["task"]["budgets"]["calls"]["used"] == 1
        assert (told["phase"]["name"], told["phase"]["budgets"]["tokens"]["limit"]) == (
            *("PLAN", 2_400),
        )
        verify = json.loads((await ask(serving, "X-Task-Id: T", "X-Task-Phase: verify")).body)
        assert (verify["phase"]["name"], verify["phase"]["budgets"]["tokens"]["used"]) == (
            *("VERIFY", 0),
        )

        assert json.loads((await ask(serving)).body)["task"] is None
        assert json.loads((await ask(serving, "Session-Id: s-1")).body)["task"] is None
        names, far = TenantKeys(tenant), 4_000_000_000_000
        await bind_session(serving.store.connection, names, "s-1", Binding("T", expires_ms=far))
        bound = json.loads((await ask(serving, "Session-Id: s-1")).body)
        assert bound["task"] == told["task"]
        assert json.loads((await ask(serving, "Session-Id: s-1")).body) == bound

        assert len(serving.told.calls) == 1
        assert len(provider.journal) == 1


async def test_GW8_an_agent_sees_the_spend_limits_that_hold_for_its_calls(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """Those of its key and its tenant, not of a model that it has not named; as they stand now."""
    hard, soft = Amounts(nano_usd=2_000_000_000, calls=10), Amounts(tokens=1_000)
    limits = (
        SpendLimitPolicy(name="daily", mode=Mode.ENFORCE, hard=hard),
        SpendLimitPolicy(name="all", per=LimitScope.TENANT, window=Span.LIFETIME, soft=soft),
        SpendLimitPolicy(name="dear", per=LimitScope.MODEL, hard=hard),
        SpendLimitPolicy(name="off", mode=Mode.OFF, hard=hard),
    )
    base = rules()
    limited = replace(base, policies=replace(base.policies, spend_limit=limits))
    async with bench(valkey, provider.base_url, tenant, limited) as serving:
        key = GatewayKey("own00000", secret_digest(b"s" * 40), "ci", tenant=tenant)
        await KeyStore(serving.store.connection).add(key)
        pays = "X-Tollgate-Key: tg-own00000-" + "s" * 40
        before = json.loads((await ask(serving, pays)).body)
        assert before["task"] is None
        assert [one["policy"] for one in before["spend_limits"]] == ["daily", "all"]
        async with serving.client() as client:
            head = f"POST /t/T/PLAN/v1/chat/completions HTTP/1.1\r\nHost: t\r\n{pays}\r\n"
            await client.ask(head.encode() + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            await serving.recorded(1)
        told = json.loads((await ask(serving, pays, "X-Task-Id: T")).body)
        own, everybody = told["spend_limits"]
        assert {name: own[name] for name in ("of", "name", "window", "enforced")} == {
            **{"of": "key", "name": "own00000", "window": "day", "enforced": True}
        }
        assert own["ends"].endswith("00:00:00Z") or own["ends"].endswith("+00:00")
        assert set(own["budgets"]) == {"calls", "cost_usd"}
        assert own["budgets"]["calls"] == {
            **{"limit": 10, "used": 1, "reserved": 0, "remaining": 9},
            **{"status": "within", "pressure": 10},
        }
        assert (everybody["of"], everybody["ends"], everybody["enforced"]) == (
            *("tenant", None, False),
        )
        assert everybody["budgets"]["tokens"]["used"] == 15


async def test_a_store_that_does_not_answer(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    async def fail(*_: object) -> None:
        raise StoreError("timeout", "no answer")

    def broken(doors: Any) -> Any:
        return replace(doors, store=OtherStore(doors.store, read_budget=fail))

    async with bench(valkey, provider.base_url, tenant, doors=broken) as serving:
        reply = await ask(serving, "X-Task-Id: T")
        assert reply.status == 503
        assert json.loads(reply.body)["error"]["code"] == "budget_store_unavailable"
