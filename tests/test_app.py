"""A worker: what it tells its supervisor, and how it ends."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import redis

from gateway.app import TaskGroup, new_call_ids, run_worker
from gateway.control import Message, Ready, Start, Telemetry, UseRules, UsesRules, frame, receive
from gateway.core.errors import InvalidConfigError
from gateway.telemetry import names
from loadtest.fake_provider import FakeProvider
from tests.e2e.in_process import (
    ENFORCING,
    data_plane,
    is_ready,
    is_telemetry,
    listening,
    rules,
    worker_serving,
)
from tests.e2e.running_gateway import until
from tests.server.client import PATIENCE_S, Client

BODY = b'{"model":"m","messages":[]}'
CALL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Task-Id: T\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


# Small parts --------------------------------------------------------------------------------------


async def test_tasks_are_awaited_or_cancelled() -> None:
    """What ends in time ends by itself; what does not is cancelled; a failure harms nobody."""
    group, ended = TaskGroup(), []

    async def work(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    await group.finish(0)
    for seconds in (0, 600):
        group.spawn(work(seconds))
    await group.finish(0.1)
    assert ended == ["done", "cancelled"]
    await group.finish(0)


def test_call_ids_are_never_the_same_twice() -> None:
    """Not in one worker, and not in two."""
    one, other = new_call_ids(), new_call_ids()
    made = {make() for make in (one, other) for _ in range(1_000)}
    assert len(made) == 2_000


# A worker in this process -------------------------------------------------------------------------


async def test_it_says_that_it_is_ready_and_what_it_counted(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """Once a second, and what was not told yet at its end."""
    async with worker_serving(valkey, provider.base_url, tenant) as worker:
        assert await worker.told(is_ready) == Ready(os.getpid())
        async with worker.client() as client:
            assert (await client.ask(CALL)).status == 200
        counted = 0
        while not counted:
            message = await worker.told(is_telemetry)
            assert isinstance(message, Telemetry)
            counted = sum(n for name, _, n in message.counted if name == names.CALLS.name)
        assert counted == 1


async def test_other_rules(valkey: str, provider: FakeProvider, tenant: str) -> None:
    """They hold from the next call on."""
    async with (
        worker_serving(valkey, provider.base_url, tenant) as worker,
        worker.client() as client,
    ):
        assert (await client.ask(CALL)).headers["x-tollgate-policy"] == "policyhash"
        other = rules(ENFORCING)
        worker.worker.use_rules(replace(other, policies=replace(other.policies, policy_hash="x")))
        assert (await client.ask(CALL)).headers["x-tollgate-policy"] == "x"
        assert isinstance(
            await worker.told(lambda message: isinstance(message, UsesRules)), UsesRules
        )


async def test_heartbeats_keep_a_long_call(
    valkey: str, provider: FakeProvider, tenant: str, redis_client: redis.Redis
) -> None:
    """A call may last longer than a lease."""
    short = {"lease_ms": 1_000, "heartbeat_ms": 50}
    async with (
        worker_serving(valkey, provider.base_url, tenant, **short) as worker,
        worker.client() as client,
    ):
        client.send(CALL.replace(b"Host: t", b"Host: t\r\nX-Fake-Ttfb-Ms: 500"))
        leases = f"tg:{{{tenant}}}:leases"
        (first,) = await until(lambda: _ends(redis_client, leases), "a lease")
        await until(lambda: _ends(redis_client, leases) > [first], "a later end")
        assert (await client.reply()).status == 200


def _ends(client: redis.Redis, leases: str) -> list[float]:
    return [end for _, end in client.zrange(leases, 0, -1, withscores=True)]


async def test_heartbeats_go_on_when_the_store_is_back(
    valkey: str, provider: FakeProvider, tenant: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A store that cannot be reached is told, and no reason to stop."""
    nowhere = "unix:///nowhere/at/all"
    async with (
        worker_serving(nowhere, provider.base_url, tenant, heartbeat_ms=20) as worker,
        worker.client() as client,
    ):
        client.send(CALL.replace(b"Host: t", b"Host: t\r\nX-Fake-Ttfb-Ms: 500"))
        assert (await client.reply()).headers["x-tollgate-store"] == "unavailable"
    assert "heartbeat_failed" in capfd.readouterr().err


async def test_upstreams_that_cannot_be_used(valkey: str, tenant: str) -> None:
    """A worker that cannot serve says why."""
    upstream = {"ca_file": "/nowhere/ca.pem"}
    with pytest.raises(InvalidConfigError, match=r"upstreams\.openai\.ca_file"):
        async with worker_serving(valkey, "https://a.example", tenant, upstream=upstream):
            pass


# A worker as its supervisor runs it ---------------------------------------------------------------


class Supervised:
    """A worker's control channel and listener, as the supervisor holds them."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.listener = listening()
        self.port: int = self.listener.getsockname()[1]

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(sock=self.ours)

    def tell(self, message: Message) -> None:
        self.writer.write(frame(message))

    async def hears(self, kind: type) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(message := await receive(self.reader), kind):
                pass
            return message

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest_asyncio.fixture
async def supervised() -> AsyncIterator[Supervised]:
    thresholds = gc.get_threshold()
    channel = Supervised()
    await channel.open()
    yield channel
    await channel.close()
    gc.unfreeze()  # a worker tunes the collector for its own process
    gc.set_threshold(*thresholds)
    channel.listener.close()
    channel.theirs.close()


def start_of(valkey: str, provider: FakeProvider, tenant: str, folder: Path) -> Start:
    plane = data_plane(valkey, provider.base_url, tenant, journal_dir=str(folder / "journal"))
    return Start(plane, rules())


async def test_a_worker_ends_by_signal(
    supervised: Supervised, valkey: str, provider: FakeProvider, tenant: str, tmp_path: Path
) -> None:
    """SIGTERM drains it; it tells what it counted, and exits."""
    fds = (supervised.theirs.fileno(), supervised.listener.fileno())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.app", *map(str, fds), pass_fds=fds
    )
    try:
        supervised.theirs.close()
        supervised.tell(start_of(valkey, provider, tenant, tmp_path))
        ready = await supervised.hears(Ready)
        assert ready == Ready(process.pid)
        async with Client(supervised.port) as client:
            assert (await client.ask(CALL)).status == 200
        supervised.tell(UseRules(rules(ENFORCING)))
        process.send_signal(signal.SIGTERM)
        await supervised.hears(Telemetry)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_worker_ends_with_its_supervisor(
    supervised: Supervised, valkey: str, provider: FakeProvider, tenant: str, tmp_path: Path
) -> None:
    """The control channel's end is the supervisor's end."""
    running = asyncio.ensure_future(run_worker(supervised.theirs, supervised.listener))
    supervised.tell(start_of(valkey, provider, tenant, tmp_path))
    await supervised.hears(Ready)
    other = rules(ENFORCING)
    supervised.tell(UseRules(replace(other, policies=replace(other.policies, policy_hash="y"))))
    await supervised.hears(UsesRules)
    async with Client(supervised.port) as client:
        assert (await client.ask(CALL)).headers["x-tollgate-policy"] == "y"
    supervised.writer.write_eof()
    await asyncio.wait_for(running, PATIENCE_S)


async def test_the_first_message_is_the_start(supervised: Supervised) -> None:
    """Nothing can be done without it."""
    running = asyncio.ensure_future(run_worker(supervised.theirs, supervised.listener))
    supervised.tell(Ready(1))
    with pytest.raises(TypeError, match="Start"):
        await asyncio.wait_for(running, PATIENCE_S)
