"""Bodies are read exactly, or refused with the reason."""

import asyncio
import gzip
import json

import pytest
from aiohttp import web

from gateway.admin import body as body_module
from gateway.admin.api import build_admin
from tests.admin.plane import TOKEN, WHO, StartPlane
from tests.store.agent import Agent

GRANT = json.dumps({"kind": "grant", "tokens": 1, **WHO})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"kind=grant",
        b'{"tokens": NaN}',
        b'{"tokens": Infinity}',
        b'{"cost_usd": 1e-99999999999999999999}',
        b'{"tokens": ' + b"9" * 5_000 + b"}",
        b"[" * 50_000,
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_not_json(plane: StartPlane, body: bytes) -> None:
    answer = await (await plane()).override(body)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_json"
    assert "Remedy" in answer.error["message"]


async def test_a_name_that_stands_twice(plane: StartPlane) -> None:
    """Which of the two was meant cannot be known."""
    answer = await (await plane()).override('{"tokens": 1, "tokens": 2}')
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    assert "'tokens' stands twice" in answer.error["message"]


async def test_a_body_that_is_compressed(plane: StartPlane) -> None:
    """A small one may unfold into a large one."""
    admin = await plane()
    headers = {"Content-Encoding": "gzip"}
    path = "/admin/v1/tasks/T/overrides"
    answer = await admin.ask("POST", path, data=gzip.compress(GRANT.encode()), headers=headers)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")


async def test_a_body_that_does_not_come(
    plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr(body_module, "_WAIT_S", 0.05)
    admin = await plane()
    reader, writer = await begin_request(admin.client.host, admin.client.port or 0)
    head = await reader.readuntil(b"\r\n")
    assert head.split()[1] == b"408"
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_in_the_middle(
    plane: StartPlane, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is applied, and it is no bug of ours. Served as `tollgate serve` does it."""
    reading, read = asyncio.Event(), web.Request.read

    async def read_and_tell(request: web.Request) -> bytes:
        reading.set()
        return await read(request)

    monkeypatch.setattr(web.Request, "read", read_and_tell)
    await agent.call("PLAN")
    admin = await plane()
    runner = web.AppRunner(build_admin(admin.parts), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, writer = await begin_request(*runner.addresses[0])
    await reading.wait()
    writer.close()
    await writer.wait_closed()
    await runner.cleanup()
    assert (await admin.task())["overrides"] == []
    assert admin.events == []


async def begin_request(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a head and the first byte of a body."""
    reader, writer = await asyncio.open_connection(host, port)
    head = (
        "POST /admin/v1/tasks/T/overrides HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {TOKEN}",
        "Content-Length: 100",
    )
    writer.write("\r\n".join((*head, "", "{")).encode())
    await writer.drain()
    return reader, writer
