"""The translator as the supervisor starts it: ready, private, gone when told."""

import asyncio
import os
from pathlib import Path

import httpx

from gateway.control import FarSide, TranslatorPlan
from gateway.socket_path import socket_path
from gateway.translator_process import TranslatorProcess
from loadtest.fake_provider import FakeProvider
from tests.store.valkey_server import is_alive

PATIENCE_S = 60


def plan_for(socket: str, provider: FakeProvider) -> TranslatorPlan:
    return TranslatorPlan(
        socket_path=socket,
        far_sides={"claude": FarSide("anthropic", provider.base_url, 60.0)},
        max_body_bytes=1 << 20,
        max_head_bytes=65_536,
        log_format="json",
        log_level="info",
    )


async def test_it_serves_on_a_private_socket_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """What a translator before it left there is no obstacle; the exit code is 0."""
    socket = socket_path(tmp_path / "state" / "translator.sock")
    Path(socket).parent.mkdir(parents=True, exist_ok=True)
    Path(socket).touch()
    async with FakeProvider() as provider:
        process = TranslatorProcess(plan_for(socket, provider))
        running = asyncio.ensure_future(process.run())
        async with asyncio.timeout(PATIENCE_S):
            while not process.is_ready:
                await asyncio.sleep(0.01)
        assert os.stat(socket).st_mode & 0o077 == 0
        transport = httpx.AsyncHTTPTransport(uds=socket)
        async with httpx.AsyncClient(transport=transport, timeout=PATIENCE_S) as client:
            answer = await client.post(
                "http://translator/u/claude/v1/chat/completions",
                json={"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
                headers={"authorization": "Bearer k"},
            )
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 20
        assert process._process is not None
        pid = process._process.pid
        await process.stop(PATIENCE_S)
        await running
    assert process.exit_code == 0
    assert not process.is_ready
    assert not Path(socket).exists()
    assert not is_alive(pid)


async def test_one_that_is_told_to_stop_while_it_starts(tmp_path: Path) -> None:
    """It ends; nobody waits for it."""
    async with FakeProvider() as provider:
        process = TranslatorProcess(plan_for(str(tmp_path / "t.sock"), provider))
        await process.stop(PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await process.run()
    assert process.exit_code is not None
    assert not process.is_ready
    await process.stop(PATIENCE_S)
