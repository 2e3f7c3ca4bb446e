"""A client that reads slowly slows its provider down, and costs the gateway no memory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until
from tests.server.client import Client
from tests.soak import Sizes

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

MIB = 1_048_576
TOKENS = 1_000_000  # some 200 MB of events
MOST_ON_THE_WAY = 16 * MIB  # in the kernel's buffers: four sockets that nobody empties
BODY = b'{"model":"m","messages":[],"stream":true}'


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096


async def stands_still(amount: Callable[[], int]) -> int:
    """Return an amount once it has not changed for a second."""
    loop = asyncio.get_running_loop()
    seen, since = amount(), loop.time()

    def is_still() -> bool:
        nonlocal seen, since
        if (now := amount()) != seen:
            seen, since = now, loop.time()
        return loop.time() - since > 1

    await until(is_still, "standing still")
    return seen


async def test_a_stream_that_is_read_slowly(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """Generation stops while nobody reads, goes on when somebody does; memory stays."""
    gateway = await start_gateway()
    await warm_up(gateway)
    provider.reset()
    provider.script(lambda _: Script(prompt_tokens=5, completion_tokens=TOKENS))
    (worker,) = gateway.worker_pids()
    before = rss_bytes(worker)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Task-Id: {task}\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )

    def generated() -> int:
        return provider.journal[0].completion_tokens if provider.journal else 0

    async with Client(urlsplit(gateway.url).port or 0, receive_buffer=65_536) as client:
        client.send(head.encode() + BODY)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await until(generated, "the first token")
        stopped_at = await stands_still(generated)
        assert stopped_at < TOKENS / 10
        assert rss_bytes(worker) - before < 8 * MIB
        read = 0
        while read < 16 * MIB:
            read += len(await client.reader.read(65_536))
        await until(lambda: generated() > stopped_at + 10_000, "going on")
        assert await stands_still(generated) < TOKENS / 4
        assert rss_bytes(worker) - before < 16 * MIB  # with the text that it counts
    fields = await gateway.settled(task, 1)
    assert fields["estimated.calls"] == "1"
    assert 10_000 < int(fields["tokens.S"]) < TOKENS / 4
    await provider.until(lambda: provider.journal[0].aborted, 30)


async def warm_up(gateway: Gateway) -> None:
    """Let the worker load what it loads once: an estimate needs an encoding of 80 MB."""
    async with gateway.client() as client:
        headers = {"x-task-id": "warm-up", "x-fake-fault": "missing_usage"}
        await client.post("/v1/chat/completions", content=BODY, headers=headers)
    await gateway.settled("warm-up", 1)


@pytest.mark.soak
async def test_a_kilobyte_a_second_of_fifty_megabytes(
    start_gateway: StartGateway, provider: FakeProvider, task: str, sizes: Sizes
) -> None:
    """The provider pushes as fast as it can: it gets rid of a few socket buffers, no more."""
    gateway = await start_gateway()
    await warm_up(gateway)
    event_bytes = await bytes_of_an_event(provider)
    provider.reset()
    tokens = 50 * MIB // event_bytes
    provider.script(lambda _: Script(prompt_tokens=5, completion_tokens=tokens))
    (worker,) = gateway.worker_pids()
    before = most = rss_bytes(worker)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Task-Id: {task}\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    async with Client(urlsplit(gateway.url).port or 0, receive_buffer=65_536) as client:
        client.send(head.encode() + BODY)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        for _ in range(sizes.slow_reader_s):
            await asyncio.sleep(1)
            await client.reader.readexactly(1_024)
            most = max(most, rss_bytes(worker))
        sent = provider.journal[0].completion_tokens * event_bytes
        assert not provider.journal[0].finished
    print(f"{sizes.slow_reader_s} s: {most - before:,} bytes of RSS, {sent:,} bytes pushed")
    assert most - before < 8 * MIB
    assert sent < MOST_ON_THE_WAY
    await gateway.settled(task, 1)


async def bytes_of_an_event(provider: FakeProvider) -> int:
    """Return how long a streamed token is on the wire."""
    async with httpx.AsyncClient(base_url=provider.base_url, trust_env=False, timeout=60) as client:
        headers = {"x-fake-completion-tokens": "1000"}
        answer = await client.post("/v1/chat/completions", content=BODY, headers=headers)
    return len(answer.content) // 1_000


async def test_bytes_that_are_read_slowly(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    """So on routes that are only passed through."""
    gateway = await start_gateway()
    (worker,) = gateway.worker_pids()
    before = rss_bytes(worker)
    async with Client(urlsplit(gateway.url).port or 0, receive_buffer=65_536) as client:
        client.send(b"GET /v1/stream-bytes?n=100000000 HTTP/1.1\r\nHost: t\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2)
        assert not provider.journal[0].finished
        assert rss_bytes(worker) - before < 8 * MIB
        read = 0
        while read < 20 * MIB:
            read += len(await client.reader.read(65_536))
    await provider.until(lambda: provider.journal[0].aborted, 30)


async def test_a_thousand_calls_leave_no_memory_behind(
    start_gateway: StartGateway, task: str
) -> None:
    """What a call holds goes with it."""
    gateway = await start_gateway()
    (worker,) = gateway.worker_pids()

    async with gateway.client() as client:

        async def calls(count: int) -> None:
            for _ in range(count):
                body = {"model": "m", "messages": [{"role": "user", "content": "x" * 20_000}]}
                headers = {"x-task-id": task, "x-fake-completion-tokens": "200"}
                await client.post("/v1/chat/completions", json=body, headers=headers)

        await calls(300)
        before = rss_bytes(worker)
        await calls(1_000)
        assert rss_bytes(worker) - before < 8 * MIB
