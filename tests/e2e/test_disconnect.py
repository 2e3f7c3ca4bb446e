"""Clients that leave a stream: what the provider bills on is read on for its usage, within caps."""

import json
from urllib.parse import urlsplit

import pytest

from loadtest.fake_provider import FakeProvider, Script, Served
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until
from tests.server.client import Client

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Go on."}]}
SLOW = Script(prompt_tokens=7, completion_tokens=2_000, chunk_delay_ms=20)


async def start(start_gateway: StartGateway, **upstream: str) -> Gateway:
    """Start a gateway whose provider has these settings."""
    keys = {f"TOLLGATE_UPSTREAMS__OPENAI__{key.upper()}": value for key, value in upstream.items()}
    return await start_gateway(**keys)


async def leave(
    gateway: Gateway, task: str, *, stream: bool = True, before: FakeProvider | None = None
) -> None:
    """Ask, and leave after the first bytes of the answer, or before them: once it was asked for."""
    data = json.dumps({**BODY, "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Task-Id: {task}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    async with Client(urlsplit(gateway.url).port or 0) as client:
        client.send(head.encode() + data)
        if before is None:
            await client.reader.readuntil(b'"content"')
        else:
            await until(lambda: before.journal, "the request at the provider")


def billed(served: Served) -> int:
    return served.prompt_tokens + served.completion_tokens


async def settled_as_seen(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """Hold what was settled to what the provider had generated when it was cut off."""
    fields = await gateway.settled(task, 1)
    await provider.until(lambda: provider.journal[0].aborted, 60)
    served = provider.journal[0]
    assert not served.usage_sent
    assert fields["estimated.calls"] == "1"
    assert 0 < int(fields["raw.output"]) <= served.completion_tokens < SLOW.completion_tokens
    assert gateway.held(task) == (0, 0, 0, 0)


@pytest.mark.parametrize("has_head", [False, True])
async def test_a_drained_stream_is_settled_as_its_provider_bills(
    has_head: bool, start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """To the token, for its usage event came, though no client asked for it or was there."""
    gateway = await start(start_gateway, disconnect="drain")
    paced = Script(prompt_tokens=7, completion_tokens=60, ttfb_ms=500, chunk_delay_ms=10)
    provider.script(lambda _: paced)
    await leave(gateway, task, before=None if has_head else provider)
    fields = await gateway.settled(task, 1)
    (served,) = provider.journal
    assert int(fields["tokens.S"]) == billed(served)
    assert served.usage_sent
    assert served.finished
    assert fields.get("estimated.calls", "0") == "0"
    assert gateway.held(task) == (0, 0, 0, 0)


async def test_a_cancelled_stream_is_settled_by_what_was_seen(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """The provider hears of it at once."""
    gateway = await start(start_gateway)
    provider.script(lambda _: SLOW)
    await leave(gateway, task)
    await settled_as_seen(gateway, provider, task)
    assert not gateway.log_events("drain_cut")


async def test_a_json_answer_is_read_on_whatever_is_set(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """It is billed in full."""
    gateway = await start(start_gateway, disconnect="cancel")
    provider.script(lambda _: Script(prompt_tokens=7, completion_tokens=9, ttfb_ms=500))
    await leave(gateway, task, stream=False, before=provider)
    fields = await gateway.settled(task, 1)
    assert int(fields["tokens.S"]) == 16
    assert provider.journal[0].finished


@pytest.mark.parametrize(
    ("cap", "value"), [("drain_ms", "100"), ("drain_max_bytes", "1024"), ("max_draining", "0")]
)
async def test_a_drain_that_hits_a_cap_is_settled_by_what_was_seen(
    cap: str, value: str, start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """And the cap is named: the provider may bill more than that."""
    gateway = await start(start_gateway, disconnect="drain", **{cap: value})
    provider.script(lambda _: SLOW)
    await leave(gateway, task)
    await settled_as_seen(gateway, provider, task)
    names = {"drain_ms": "time", "drain_max_bytes": "bytes", "max_draining": "count"}
    (event,) = await until(lambda: gateway.log_events("drain_cut"), "the event")
    assert event["cap"] == names[cap]


async def test_a_drained_call_stays_open_until_its_end(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """Its hold lasts longer than a lease, for heartbeats go on; a shutdown waits for it."""
    gateway = await start_gateway(
        TOLLGATE_UPSTREAMS__OPENAI__DISCONNECT="drain",
        TOLLGATE_STORE__LEASE_MS="1000",
        TOLLGATE_STORE__HEARTBEAT_MS="200",
        TOLLGATE_STORE__SWEEP_MS="200",
    )
    provider.script(lambda _: Script(prompt_tokens=7, completion_tokens=150, chunk_delay_ms=20))
    await leave(gateway, task)
    assert gateway.held(task)[3] == 1
    await gateway.stop()
    (served,) = provider.journal
    assert served.finished
    assert not gateway.log_events("call_expired")
    again = await start_gateway(state_dir=gateway.state_dir)
    fields = again.task(task)
    assert (fields["calls.S"], int(fields["tokens.S"])) == ("1", billed(served))
    assert fields.get("estimated.calls", "0") == "0"


async def test_a_shutdown_does_not_wait_longer_than_its_deadline(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """What is drained then is cut, and settled by what was seen."""
    gateway = await start_gateway(
        TOLLGATE_UPSTREAMS__OPENAI__DISCONNECT="drain", TOLLGATE_LIMITS__DRAIN_MS="300"
    )
    provider.script(lambda _: SLOW)
    await leave(gateway, task)
    await gateway.stop()
    again = await start_gateway(state_dir=gateway.state_dir)
    await settled_as_seen(again, provider, task)
