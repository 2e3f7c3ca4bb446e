"""EC20: how often a whole call asks the store, by the server's own count and the connection's.

Both are compared before and after, so nothing depends on who else uses the server.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.acts import Act
from gateway.core.budget import Amounts
from gateway.core.keys import GatewayKey, changed, secret_digest
from gateway.core.loops import LoopPolicy
from gateway.core.match import CallMatch
from gateway.core.phases import WorkPhase
from gateway.core.policy import Match, Mode, PolicySet, ReserveKind
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy
from gateway.core.velocity import RatePolicy
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import switch_enforcement
from gateway.store.key_store import KeyStore
from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, OBSERVING, Bench, bench, rules

ENFORCE: Any = {"mode": Mode.ENFORCE}
FAR = Amounts(tokens=10**12)
LIMITS = PolicySet(
    (replace(ENFORCING, enforce_from=None),),
    "hash",
    unpriced_model=(),
    loop=(LoopPolicy(**ENFORCE, calls=1_000),),
    rate=(RatePolicy(**ENFORCE, limits=FAR),),
    spend_limit=tuple(
        SpendLimitPolicy(name=f"s{place}", per=per, hard=FAR, **ENFORCE)
        for place, per in enumerate((LimitScope.TENANT, LimitScope.MODEL))
    ),
)
CLOSE = replace(
    LIMITS, stop_loss=(replace(ENFORCING, enforce_from=None, reserve=ReserveKind.WORST_CASE),)
)
LINE = 28_080
CRLF = "\r\n"
LONG_MS = 10**11


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes over any connection of the data path, by its name."""
    names: list[str] = []
    run, execute = StoreConnection.run, StoreConnection.execute

    async def counted_run(self: StoreConnection, script: Any, *args: Any) -> Any:
        names.append("script")
        return await run(self, script, *args)

    async def counted_execute(self: StoreConnection, *args: Any) -> Any:
        names.append(str(args[0]))
        return await execute(self, *args)

    monkeypatch.setattr(StoreConnection, "run", counted_run)
    monkeypatch.setattr(StoreConnection, "execute", counted_execute)
    return names


def scripts_run(serving: Bench) -> int:
    """How many scripts the server has run."""
    stats: Any = serving.client_of_store.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def call(
    serving: Bench, asked: list[str], text: str = "hi", key: str = "", phase: str = "PLAN"
) -> list[str]:
    """Make one call; return what the store was asked for it."""
    said = [{"role": "user", "content": text}]
    body = json.dumps({"model": "gpt-4o", "messages": said, "max_tokens": 100})
    head = (
        f"POST /t/T/{phase}/v1/chat/completions HTTP/1.1\r\nHost: t\r\n"
        f"{key and f'X-Tollgate-Key: {key}' + CRLF}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    asked.clear()
    before, calls = scripts_run(serving), len(serving.told.calls)
    async with serving.client() as client:
        assert (await client.ask((head + body).encode())).status == 200
    await serving.recorded(calls + 1)
    assert scripts_run(serving) - before == asked.count("script")
    return list(asked)


async def round_trips(serving: Bench, asked: list[str], text: str = "hi", **said: str) -> int:
    """Make one call; return how often the store was asked for it, by either count."""
    names = await call(serving, asked, text, **said)
    assert names == ["script"] * len(names), "commands beside scripts"
    return len(names)


@pytest.mark.parametrize("policies", [PolicySet((ENFORCING,), unpriced_model=()), LIMITS])
async def test_EC20_one_before_a_call_and_one_after(
    valkey: str, provider: FakeProvider, tenant: str, asked: list[str], policies: PolicySet
) -> None:
    """Spend limits, rate and loops cost none; a new task and a thrown switch cost one, once."""
    in_force = rules(ENFORCING, policies=policies)
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        assert await round_trips(serving, asked) == 3
        assert [await round_trips(serving, asked) for _ in range(3)] == [2, 2, 2]
        for enabled in (False, True):
            act = Act("enforcement", "ann", "a test")
            names, connection = TenantKeys(tenant), serving.store.connection
            await switch_enforcement(connection, names, act, enabled=enabled)
            assert [await round_trips(serving, asked) for _ in range(2)] == [3, 2]


async def test_EC20_near_a_limit_the_input_is_counted_and_asked_again(
    valkey: str, provider: FakeProvider, tenant: str, asked: list[str]
) -> None:
    """One more, only where the decision hangs on it."""
    in_force = rules(ENFORCING, policies=CLOSE)
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        await round_trips(serving, asked)
        assert await round_trips(serving, asked, "word " * 800) == 2
        key = TenantKeys(tenant).task("T")
        serving.client_of_store.hset(key, "tokens.S", LINE - 4_000)
        assert await round_trips(serving, asked, "word " * 800) == 3


async def test_a_phase_that_changed_costs_one_more_where_policies_are_for_phases(
    valkey: str, provider: FakeProvider, tenant: str, asked: list[str]
) -> None:
    """Of a call that names none, and is judged in its task's."""
    in_verify = Match(calls=(CallMatch(phase=frozenset({WorkPhase.VERIFY})),))
    policies = replace(LIMITS, stop_loss=(replace(ENFORCING, match=in_verify), OBSERVING))
    async with bench(valkey, provider.base_url, tenant, rules(policies=policies)) as serving:
        await call(serving, asked)
        assert [await round_trips(serving, asked, phase="-") for _ in range(2)] == [2, 2]
        serving.client_of_store.hset(TenantKeys(tenant).task("T"), "phase", "VERIFY")
        assert [await round_trips(serving, asked, phase="-") for _ in range(2)] == [3, 2]


async def test_EC20_a_stale_key_costs_one_more_reserve(
    valkey: str,
    provider: FakeProvider,
    tenant: str,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which brings the key as it is now; one that did not change costs nothing at all."""
    monkeypatch.setattr("gateway.store.key_store._FRESH_MS", LONG_MS)  # however slow the machine is
    key_id, secret = f"{abs(hash(tenant)) % 10**8:08d}", "s" * 40
    key = GatewayKey(key_id, secret_digest(secret.encode()), "an agent", tenant=tenant)
    text, once = f"tg-{key_id}-{secret}", ["script", "script"]
    in_force = rules(ENFORCING, policies=LIMITS)
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        keys = KeyStore(serving.store.connection)
        await keys.add(key)
        assert await call(serving, asked, key=text) == ["HGET", "script", *once]  # a new task
        assert [await call(serving, asked, key=text) for _ in range(2)] == [once, once]
        for name in ("renamed", "and again"):
            await keys.change(key_id, lambda key, name=name: changed(key, name=name))
            assert await call(serving, asked, key=text) == ["script", *once]
            assert await call(serving, asked, key=text) == once
