"""SIGTERM under open streams: readiness first, nobody listens any more, every stream finishes."""

import asyncio
import contextlib
import json
import signal

import httpx
import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import PATIENCE_S, Gateway, until
from tests.store.valkey_server import is_alive

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

STREAMS = 50
TOKENS = 60
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}


async def stream(gateway: Gateway, client: httpx.AsyncClient, task: str, delay_ms: int) -> str:
    headers = {
        "x-task-id": task,
        "x-fake-completion-tokens": str(TOKENS),
        "x-fake-chunk-delay-ms": str(delay_ms),
    }
    async with client.stream(
        "POST", "/v1/chat/completions", json=REQUEST, headers=headers
    ) as answer:
        return "".join([piece async for piece in answer.aiter_text()])


async def is_refused(gateway: Gateway) -> bool:
    host, port = gateway.url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return False


async def refused(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await is_refused(gateway):
            await asyncio.sleep(0.02)


async def exit_code(gateway: Gateway) -> int:
    """Wait for the end without another signal; no process is left."""
    children = gateway.children()
    async with asyncio.timeout(PATIENCE_S):
        await gateway.process.wait()
    await until(lambda: not any(map(is_alive, children)), "the end of all children")
    return await gateway.stop(check=False)


@pytest.mark.parametrize("workers", [1, 2])
async def test_open_streams_finish(
    workers: int, start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    gateway = await start_gateway(workers=workers)
    limits = httpx.Limits(max_connections=None)
    async with gateway.client(limits=limits) as client:
        streams = [asyncio.ensure_future(stream(gateway, client, task, 50)) for _ in range(STREAMS)]
        await until(lambda: len(provider.journal) == STREAMS, "all streams at the provider")
        gateway.process.send_signal(signal.SIGTERM)
        await refused(gateway)
        answer = await gateway.admin("GET", "/readyz")
        assert (answer.status_code, answer.json()["draining"]) == (503, True)
        assert "the gateway is draining" in answer.text
        texts = await asyncio.gather(*streams)
        assert not any(each.aborted for each in provider.journal)
    for text in texts:
        assert text.endswith("data: [DONE]\n\n")
        assert text.count('"delta"') >= TOKENS
    assert await exit_code(gateway) == 0
    assert gateway.log_events("worker_died") == []


async def test_an_idle_connection_is_served_once_more(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """A request may be on its way when the drain begins: it is answered, with a close behind."""
    gateway = await start_gateway(TOLLGATE_LIMITS__DRAIN_IDLE_MS="30000")
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**REQUEST, "stream": False}).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Task-Id: {task}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body

    async def answer() -> str:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        return head.decode().lower()

    with contextlib.closing(writer):
        assert "connection: close" not in await answer()
        gateway.process.send_signal(signal.SIGTERM)
        await refused(gateway)
        head = await answer()
        assert head.startswith("http/1.1 200")
        assert "connection: close" in head
        assert await reader.read() == b""
    assert await exit_code(gateway) == 0


async def test_a_second_signal_forces(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """Open calls are cut, which the exit code says."""
    gateway = await start_gateway()
    async with gateway.client() as client:
        cut = asyncio.ensure_future(stream(gateway, client, task, 10_000))
        await until(lambda: provider.journal, "the stream at the provider")
        gateway.process.send_signal(signal.SIGTERM)
        await refused(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):
            await cut
    assert await exit_code(gateway) == 1
