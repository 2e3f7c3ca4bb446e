"""Loops, grace calls and phases on real sockets: two lifecycles on one store, as two gateways are."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio

from gateway.core.configuration import Rules
from gateway.core.grace import GraceCallPolicy
from gateway.core.loops import LoopPolicy
from gateway.core.overrides import Override, OverrideKind
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.policy import Mode, PolicySet
from gateway.store.limits import apply_override
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, Bench, bench, rules
from tests.server.client import Reply

LOOP = LoopPolicy(mode=Mode.ENFORCE)
GRACE = GraceCallPolicy(mode=Mode.ENFORCE, allowance_tokens=5_000)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


def under(*, loop: tuple[LoopPolicy, ...] = (), grace: tuple[GraceCallPolicy, ...] = ()) -> Rules:
    return rules(
        policies=PolicySet((ENFORCING,), "h", unpriced_model=(), loop=loop, grace_call=grace)
    )


async def ask(
    serving: Bench, *lines: str, say: str = "hello", phase: str = "VERIFY", **fields: Any
) -> Reply:
    """Make one call of task T, and wait for its record."""
    messages = [{"role": "user", "content": say}]
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: t", "X-Task-Id: T"]
    head += [f"X-Task-Phase: {phase}", *lines, f"Content-Length: {len(body)}", "", ""]
    calls = len(serving.told.calls)
    async with serving.client() as client:
        reply = await client.ask("\r\n".join(head).encode() + body)
        await serving.recorded(calls + 1)
        return reply


def header(reply: Reply, name: str) -> str:
    return reply.headers.get(name, "")


async def test_GW13_a_loop_over_two_gateways_trips_and_a_resume_frees(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """19 pass, whatever their metadata; the twentieth is refused, on each of them."""
    in_force = under(loop=(LOOP,))
    async with (
        bench(valkey, provider.base_url, tenant, in_force) as one,
        bench(valkey, provider.base_url, tenant, in_force) as two,
    ):
        for number in range(19):
            reply = await ask((one, two)[number % 2], metadata={"call": number})
            assert (reply.status, header(reply, "x-tollgate-decision")) == (200, "allow")
        reply = await ask(two)
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (400, "loop_detected")
        assert header(reply, "x-should-retry") == "false"
        reply = await ask(one, say="something else")
        assert json.loads(reply.body)["error"]["code"] == "loop_detected"
        assert len(provider.journal) == 19
        (event,) = two.events("loop_detected")
        assert (event["level"], event["task"], event["policy"]) == ("critical", "T", "loop")
        assert one.events("loop_detected") == []
        resume = Override(OverrideKind.RESUME, "ada", "looked at it", 0)
        await apply_override(one.store.connection, one.store.keys(tenant), "T", resume)
        assert (await ask(two)).status == 200


async def test_GW13_where_it_only_flags_the_loop_goes_on(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    in_force = under(loop=(LoopPolicy(calls=2, growing_calls=2),))
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        decisions = [header(await ask(serving), "x-tollgate-decision") for _ in range(3)]
        assert decisions == ["allow", "flag", "flag"]
        assert [call.would_refuse for call in serving.told.calls] == [False, True, True]
        assert len(serving.events("loop_detected")) == 1
        for tokens in (20, 30):
            provider.script(lambda _, n=tokens: Script(prompt_tokens=n, completion_tokens=5))
            await ask(serving, say=f"{tokens}")
        reply = await ask(serving, say="more")
        assert header(reply, "x-tollgate-decision") == "flag"
        assert len(serving.events("context_growing")) == 1


async def test_GW14_a_grace_call_is_clamped_and_let_through_once(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """The refusal says how to ask; the provider sees the allowance as the output's limit."""
    provider.script(lambda _: Script(prompt_tokens=30_000, completion_tokens=5))
    async with bench(valkey, provider.base_url, tenant, under(grace=(GRACE,))) as serving:
        assert (await ask(serving, max_tokens=9_000)).status == 200
        assert (await ask(serving, "X-Task-Grace: 1")).status == 400  # trips
        reply = await ask(serving)
        assert (reply.status, header(reply, "x-tollgate-grace")) == (400, "offered")
        assert "X-Task-Grace: 1" in json.loads(reply.body)["error"]["message"]
        reply = await ask(serving, "X-Task-Grace: 1", say="x" * 40_000)
        assert (reply.status, header(reply, "x-tollgate-grace")) == (400, "short")
        reply = await ask(serving, "X-Task-Grace: 1", max_tokens=9_000)
        assert (reply.status, header(reply, "x-tollgate-grace")) == (200, "admitted")
        assert header(reply, "x-tollgate-decision") == "flag"
        reply = await ask(serving, "X-Task-Grace: 1")
        assert (reply.status, header(reply, "x-tollgate-grace")) == (400, "used")
        first, graced = (json.loads(seen.body) for seen in provider.requests)
        assert first["max_tokens"] == 9_000
        assert 4_900 < graced["max_tokens"] < 5_000


async def test_EC10_one_phase_at_a_time(valkey: str, provider: FakeProvider, tenant: str) -> None:
    """A call of another phase is put off, on another gateway too, until those before it have ended."""
    strict = replace(ENFORCING, parallel_phases=ParallelPhases.REFUSE)
    in_force = rules(policies=PolicySet((strict,), "h", unpriced_model=()))
    provider.script(lambda r: Script(fault="hang") if b"stay" in r.body else None)
    async with (
        bench(valkey, provider.base_url, tenant, in_force) as one,
        bench(valkey, provider.base_url, tenant, in_force) as two,
    ):
        leaving = asyncio.ensure_future(ask(one, say="stay", stream=True))
        async with asyncio.timeout(60):
            while not provider.requests:
                await asyncio.sleep(0.01)
        assert (await ask(two)).status == 200, "the same phase"
        reply = await ask(two, phase="PR")
        assert (reply.status, header(reply, "x-should-retry")) == (429, "true")
        error = json.loads(reply.body)["error"]
        assert error["code"] == "budget_in_flight"
        assert "Phase VERIFY of task T has calls that are still open" in error["message"]
        leaving.cancel()
        await one.recorded(1)
        assert (await ask(two, phase="PR")).status == 200
        assert len(provider.requests) == 3
