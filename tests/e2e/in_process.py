"""Parts of a worker in this process, on real sockets and a real store."""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import redis

from gateway.app import Worker, wall_ms
from gateway.control import Message, Ready, Telemetry, receive
from gateway.core.configuration import DataPlane, Rules, UpstreamSettings
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.core.prices import PriceTable
from gateway.lifecycle import Lifecycle
from gateway.ports import BudgetStore, Doors, Downstream, Request
from gateway.rule_files.budgets import DEFAULT_PHASE_BUDGETS
from gateway.server.data_server import DataServer
from gateway.server.refusals import Refusals
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.key_store import KeyRing, KeyStore
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore
from gateway.tokenizer import TiktokenCounter
from gateway.upstream.providers import Providers
from tests.server.client import PATIENCE_S, Client, Told

_numbers = count(1)  # a call's id is its own, whichever bench it is made on

OBSERVING = StopLossPolicy()
ENFORCING = StopLossPolicy(mode=Mode.ENFORCE)


def rules(policy: StopLossPolicy = OBSERVING, **changes: Any) -> Rules:
    """Return rules with one policy, the default budgets and no prices, for which nobody asks."""
    policies = PolicySet((policy,), "policyhash", unpriced_model=())
    return replace(Rules(DEFAULT_PHASE_BUDGETS, policies, PriceTable({})), **changes)


def listening() -> socket.socket:
    """Return a listener on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    return listener


def data_plane(store_url: str, upstream_url: str, tenant: str, **plane: Any) -> DataPlane:
    """Return what a worker runs on, patient enough for a busy machine."""
    upstream = UpstreamSettings(upstream_url, "openai", **plane.pop("upstream", {}))
    upstreams = {"openai": upstream, **plane.pop("others", {})}
    settings = {"store_timeout_ms": 20_000, "drain_ms": 5_000, **plane}
    return DataPlane(store_url, tenant=tenant, upstreams=upstreams, **settings)


# The way of a call, without the worker around it --------------------------------------------------


@dataclass
class Bench:
    """A lifecycle behind a port, and everything that it told."""

    lifecycle: Lifecycle
    port: int
    told: Told
    store: RedisStore
    client_of_store: redis.Redis
    tenant: str

    def client(self, **options: Any) -> Client:
        """Return a client of the port."""
        return Client(self.port, **options)

    def task(self, task: str) -> dict[str, str]:
        """Return everything in a task's hash."""
        return self.client_of_store.hgetall(TenantKeys(self.tenant).task(task))

    async def recorded(self, calls: int) -> None:
        """Wait until so many calls are over."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told.calls) < calls:
                await asyncio.sleep(0.002)
        assert len(self.told.calls) == calls

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the events of a name."""
        return [event for event in self.told.events if event["event"] == name]


@asynccontextmanager
async def bench(
    store_url: str,
    upstream_url: str,
    tenant: str,
    in_force: Rules | None = None,
    *,
    doors: Callable[[Doors], Doors] = lambda doors: doors,
    **plane: Any,
) -> AsyncIterator[Bench]:
    """Build a lifecycle on real adapters; `doors` may put others in their place."""
    settings = data_plane(store_url, upstream_url, tenant, **plane)
    told, calls = Told(), set[asyncio.Task[None]]()
    connection = StoreConnection(parse_store_url(store_url), settings.store_timeout_ms)
    await connection.open()
    store = RedisStore(connection, lease_ms=settings.lease_ms)
    upstreams = Providers(settings.upstreams, asyncio.get_running_loop())
    tokenizer = TiktokenCounter(deadline_s=60.0)
    wired = doors(
        Doors(
            store=store,
            keys=KeyRing(KeyStore(connection), wall_ms),
            upstreams=upstreams,
            wording=Refusals(),
            recorder=told,
            tokenizer=tokenizer,
            clock=time.monotonic,
            new_call_id=lambda: f"call-{next(_numbers)}",
        )
    )
    lifecycle = Lifecycle(settings, in_force or rules(), wired)

    def carry(request: Request, downstream: Downstream) -> None:
        task = asyncio.ensure_future(lifecycle.carry(request, downstream))
        calls.add(task)
        task.add_done_callback(calls.discard)

    server = DataServer(
        settings, carry, Refusals(), told, time.monotonic, lambda: f"bad-{next(_numbers)}"
    )
    listener = listening()
    port = listener.getsockname()[1]
    await server.start(listener)
    look = redis.Redis.from_url(store_url, decode_responses=True)
    try:
        yield Bench(lifecycle, port, told, store, look, tenant)
    finally:
        await server.drain()
        await upstreams.close(0)
        await asyncio.gather(*calls, return_exceptions=True)
        await tokenizer.close()
        await connection.close()
        look.close()


class OtherStore:
    """A store that is another one in some of its acts."""

    def __init__(self, store: BudgetStore, **acts: Any) -> None:
        self._store = store
        self._acts = acts

    def __getattr__(self, name: str) -> Any:
        return self._acts.get(name) or getattr(self._store, name)


# A whole worker -----------------------------------------------------------------------------------


@dataclass
class InProcess:
    """A worker behind a port, and the supervisor's end of its control channel."""

    worker: Worker
    port: int
    reader: asyncio.StreamReader

    def client(self, **options: Any) -> Client:
        """Return a client of the port."""
        return Client(self.port, **options)

    async def told(self, wanted: Callable[[Message], bool]) -> Message:
        """Return the next message of the worker that is wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not wanted(message := await receive(self.reader)):
                pass
            return message


@asynccontextmanager
async def worker_serving(
    store_url: str, upstream_url: str, tenant: str, in_force: Rules | None = None, **plane: Any
) -> AsyncIterator[InProcess]:
    """Run a worker; it is drained at the end."""
    ours, theirs = socket.socketpair()
    reader, our_writer = await asyncio.open_connection(sock=ours)
    _, writer = await asyncio.open_connection(sock=theirs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"journal_dir": str(Path(folder, "journal")), **plane}
            settings_of_worker = data_plane(store_url, upstream_url, tenant, **settings)
            worker = Worker(settings_of_worker, in_force or rules(), writer)
            listener = listening()
            port = listener.getsockname()[1]
            try:
                await worker.start(listener)
                yield InProcess(worker, port, reader)
            finally:
                await worker.stop()
    finally:
        for end in (writer, our_writer):
            end.close()
            await end.wait_closed()


def is_ready(message: Message) -> bool:
    """Return whether a message says that the worker accepts calls."""
    return isinstance(message, Ready)


def is_telemetry(message: Message) -> bool:
    """Return whether a message carries counts."""
    return isinstance(message, Telemetry)
