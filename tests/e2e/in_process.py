"""A worker in this process: real sockets, a real store, no supervisor."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.app import Worker
from gateway.control import Message, Ready, Telemetry, receive
from gateway.core.configuration import DataPlane, Rules, UpstreamSettings
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.core.prices import PriceTable
from gateway.rule_files.budgets import DEFAULT_PHASE_BUDGETS

OBSERVING = StopLossPolicy()
ENFORCING = StopLossPolicy(mode=Mode.ENFORCE)


def rules(policy: StopLossPolicy = OBSERVING, **changes: Any) -> Rules:
    """Return rules with one policy, the default budgets and no prices."""
    return replace(
        Rules(DEFAULT_PHASE_BUDGETS, PolicySet((policy,), "policyhash"), PriceTable({})), **changes
    )


@dataclass
class InProcess:
    """A worker that serves `url`, and the supervisor's end of its control channel."""

    worker: Worker
    url: str
    reader: asyncio.StreamReader

    async def told(self, wanted: Callable[[Message], bool]) -> Message:
        """Return the next message of the worker that is wanted."""
        async with asyncio.timeout(30):
            while not wanted(message := await receive(self.reader)):
                pass
            return message


def listening() -> socket.socket:
    """Return a listener on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL of a listener."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def serving(
    store_url: str,
    upstream_url: str,
    tenant: str,
    in_force: Rules | None = None,
    *,
    upstream: dict[str, Any] | None = None,
    **plane: Any,
) -> AsyncIterator[InProcess]:
    """Run a worker; it is drained at the end."""
    listener = listening()
    ours, theirs = socket.socketpair()
    reader, our_writer = await asyncio.open_connection(sock=ours)
    _, writer = await asyncio.open_connection(sock=theirs)
    settings = {
        "store_timeout_ms": 20_000,
        "drain_ms": 5_000,
        "upstreams": {"openai": UpstreamSettings(upstream_url, "openai", **(upstream or {}))},
        **plane,
    }
    worker = Worker(DataPlane(store_url, tenant, **settings), in_force or rules(), writer)
    url = url_of(listener)
    try:
        await worker.start(listener)
        yield InProcess(worker, url, reader)
    finally:
        await worker.stop()
        for end in (writer, our_writer):
            end.close()
            await end.wait_closed()


def is_ready(message: Message) -> bool:
    """Return whether a message says that the worker accepts calls."""
    return isinstance(message, Ready)


def is_telemetry(message: Message) -> bool:
    """Return whether a message carries counts."""
    return isinstance(message, Telemetry)
