"""The parent process from outside: how it starts, what it will not do, how it ends."""

import asyncio
import hashlib
import json
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway, MeasuredGateway, until
from tests.server.client import Client
from tests.store.valkey_server import ValkeyServer, is_alive

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}'


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def request(task: str, *lines: str) -> bytes:
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: t",
        f"X-Task-Id: {task}",
        *lines,
        f"Content-Length: {len(BODY)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + BODY


# Start --------------------------------------------------------------------------------------------


async def fails_to_start(gateway: Gateway, code: int = 1) -> str:
    """Return what a gateway says that ends at its start."""
    async with gateway.launched():
        assert await gateway.ended() == code
    assert "Traceback" not in gateway.log_text
    return gateway.log_text


async def test_a_port_that_is_taken(tmp_path: Path, provider: FakeProvider) -> None:
    """It is named, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ("--port", str(port))
        said = await fails_to_start(
            Gateway(tmp_path / "state", provider.base_url, arguments=arguments)
        )
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "--port" in said


async def test_a_state_folder_that_is_none(tmp_path: Path, provider: FakeProvider) -> None:
    (tmp_path / "state").touch()
    said = await fails_to_start(Gateway(tmp_path / "state", provider.base_url))
    assert "error: state_dir: " in said
    assert "Remedy: " in said


@pytest.mark.parametrize("section", ["SERVER", "ADMIN"])
async def test_it_does_not_bind_beyond_loopback_by_accident(
    tmp_path: Path, provider: FakeProvider, section: str
) -> None:
    """Without keys whoever reaches it could spend."""
    environment = {f"TOLLGATE_{section}__HOST": "0.0.0.0"}  # noqa: S104 - it must be refused
    said = await fails_to_start(
        MeasuredGateway(tmp_path / "state", provider.base_url, **environment)
    )
    assert "not a loopback address" in said
    assert "unsafe_bind" in said


async def test_the_admin_token(tmp_path: Path, provider: FakeProvider) -> None:
    """Generated once, for its owner alone; shown once; a token from the settings is never shown."""
    for start in (1, 2):
        async with Gateway(tmp_path / "state", provider.base_url) as gateway:
            file = tmp_path / "state" / "admin-token"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert (gateway.token in gateway.banner) is (start == 1)
            assert (await gateway.admin("GET", "/admin/v1/tasks")).status_code == 200
    viewer = {"role": "viewer", "sha256": hashlib.sha256(b"eye").hexdigest()}
    own = {
        "TOLLGATE_ADMIN__TOKEN": "kQ7-vN2x-pL9f-Rz4w-Hd8c",
        "TOLLGATE_ADMIN__TOKENS": json.dumps({"eye": viewer}),
    }
    async with Gateway(tmp_path / "other", provider.base_url, **own) as gateway:
        assert "kQ7-vN2x-pL9f-Rz4w-Hd8c" not in gateway.banner
        assert not (tmp_path / "other" / "admin-token").exists()
        gateway.token = "another"
        assert (await gateway.admin("GET", "/admin/v1/tasks")).status_code == 401
        gateway.token = "kQ7-vN2x-pL9f-Rz4w-Hd8c"
        assert (await gateway.admin("GET", "/admin/v1/tasks")).status_code == 200
        reload = "/admin/v1/policies/reload"
        assert (await gateway.admin("POST", reload)).status_code == 200
        gateway.token = "eye"
        assert (await gateway.admin("POST", reload)).status_code == 403
        assert (await gateway.admin("GET", "/admin/v1/prices?model=gpt-4o")).status_code == 200
        audit = await gateway.admin("GET", "/admin/v1/audit")  # nobody writes the ledger here
        assert (audit.status_code, audit.json()["error"]["code"]) == (503, "ledger_unavailable")


async def test_a_store_of_ones_own(tmp_path: Path, provider: FakeProvider, valkey: str) -> None:
    """Then no store is started."""
    settings = {"TOLLGATE_REDIS__URL": valkey}
    async with Gateway(tmp_path / "state", provider.base_url, **settings) as gateway:
        assert not any("valkey-server" in command for command in gateway.children().values())
        assert (await gateway.ready())["store_connected"] is True
        assert "redis.url" in gateway.banner
        async with Client(port_of(gateway.url)) as client:
            assert (await client.ask(request("supervised"))).status == 200


async def test_a_store_that_comes_later(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider
) -> None:
    """The gateway starts and serves, says what it lacks, and connects when it can."""
    server = ValkeyServer(tmp_path_factory.mktemp("late"))
    settings = {"TOLLGATE_REDIS__URL": server.url}
    async with Gateway(tmp_path / "state", provider.base_url, **settings) as gateway:
        answer = await gateway.admin("GET", "/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["store_connected"] is False
        server.start()
        try:
            async with asyncio.timeout(60):
                while (await gateway.ready())["status"] != "ready":
                    await asyncio.sleep(0.05)
        finally:
            server.kill()


async def test_text_for_people(tmp_path: Path, provider: FakeProvider) -> None:
    """`--log-format text` is what `make run` asks for."""
    arguments = ("--log-format", "text")
    async with Gateway(tmp_path / "state", provider.base_url, arguments=arguments) as gateway:
        async with Client(port_of(gateway.url)) as client:
            await client.ask(request("people"))
        await until(lambda: " call " in gateway.log_text, "the log line")
        assert "task=people" in gateway.log_text
        assert not gateway.log_text.startswith("{")


async def test_a_worker_that_cannot_start(tmp_path: Path, provider: FakeProvider) -> None:
    """It is tried again, with a growing pause; the gateway can still be stopped."""
    https = provider.base_url.replace("http:", "https:")
    settings = {"TOLLGATE_UPSTREAMS__OPENAI__CA_FILE": str(tmp_path / "none.pem")}
    async with MeasuredGateway(tmp_path / "state", https, **settings).launched() as gateway:
        await until(lambda: len(gateway.log_events("worker_died")) >= 2, "two attempts")
        assert "ca_file" in gateway.log_text
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0


# The end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_when_it_is_told_to(
    tmp_path: Path, provider: FakeProvider, number: signal.Signals
) -> None:
    """With code 0; no process is left, and the addresses are free."""
    async with MeasuredGateway(tmp_path / "state", provider.base_url, workers=2) as gateway:
        children = gateway.children()
        assert len(children) == 4  # two workers, the store, the ledger's writer
        port = port_of(gateway.url)
        gateway.process.send_signal(number)
        assert await gateway.ended() == 0
    assert not any(map(is_alive, children))
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_open_calls_are_finished_first(tmp_path: Path, provider: FakeProvider) -> None:
    """A client in mid-stream gets every byte; the call is settled before the store stops."""
    state_dir = tmp_path / "state"
    async with (
        Gateway(state_dir, provider.base_url) as gateway,
        Client(port_of(gateway.url)) as client,
        Client(port_of(gateway.url)) as idle,
    ):
        await idle.ask(request("idle"))
        paced = ("X-Fake-Chunk-Delay-Ms: 50", "X-Fake-Completion-Tokens: 30")
        client.send(request("draining", *paced, "X-Fake-Prompt-Tokens: 11"))
        await provider.until(lambda: len(provider.journal) == 2, 30)
        gateway.process.send_signal(signal.SIGTERM)
        assert await idle.rest() == b""
        reply = await client.reply()
        assert reply.complete
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert await gateway.ended() == 0
    async with Gateway(state_dir, provider.base_url) as again:
        fields = again.task("draining")
        assert (fields["tokens.S"], fields["calls.S"], fields["inflight"]) == ("41", "1", "0")


async def test_draining_has_an_end(tmp_path: Path, provider: FakeProvider) -> None:
    """After `drain_ms` an open call is cut, and settled by what was seen."""
    state_dir, short = tmp_path / "state", {"TOLLGATE_LIMITS__DRAIN_MS": "300"}
    async with (
        Gateway(state_dir, provider.base_url, **short) as gateway,
        Client(port_of(gateway.url)) as client,
    ):
        client.send(request("cut", "X-Fake-Fault: hang:10"))
        await client.reader.readuntil(b'"content":" reads"')
        assert await gateway.stop() == 0
        await client.rest()
    async with Gateway(state_dir, provider.base_url) as again:
        fields = await again.settled("cut", 1)
        assert fields["estimated.calls"] == "1"
        assert "expired.calls" not in fields


async def test_a_second_signal_forces(tmp_path: Path, provider: FakeProvider) -> None:
    """Whoever presses Ctrl-C twice does not want to wait for the drain."""
    patient = {"TOLLGATE_LIMITS__DRAIN_MS": "600000"}
    async with (
        Gateway(tmp_path / "state", provider.base_url, **patient) as gateway,
        Client(port_of(gateway.url)) as client,
    ):
        children = gateway.children()
        client.send(request("forced", "X-Fake-Fault: hang:10"))
        await client.reader.readuntil(b"\r\n\r\n")
        gateway.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        assert not gateway.has_ended
        gateway.process.send_signal(signal.SIGINT)
        await gateway.ended()
        await client.rest()
    await until(lambda: not any(map(is_alive, children)), "the end of all children")


@pytest.mark.parametrize("delay_s", [0.3, 0.6, 1.0, 1.4])
async def test_told_to_stop_while_it_starts(
    tmp_path: Path, provider: FakeProvider, delay_s: float
) -> None:
    """Whatever it was doing, it ends, and leaves nothing behind."""
    async with Gateway(tmp_path / "state", provider.base_url, workers=2).launched() as gateway:
        await asyncio.sleep(delay_s)
        children = gateway.children()
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() in (0, -signal.SIGTERM)
    await until(lambda: not any(map(is_alive, children)), "the end of all children")
