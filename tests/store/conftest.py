"""The store in virtual time, an agent that makes calls through it, and a look at the keys."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis
import uvloop

from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, Look
from tests.store.valkey_server import ValkeyServer

_DEPENDS_ON_THE_LOOP = ("test_connection.py", "test_embedded.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What touches transports and processes runs on both loops, the rest on the worker's."""
    factories = {"uvloop": uvloop.new_event_loop}
    if item.path.name in _DEPENDS_ON_THE_LOOP:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T; the time is 1,000,000."""
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made


@pytest.fixture
def look(redis_client: redis.Redis, tenant: str) -> Look:
    """What stands in the tenant's keys."""
    return Look(redis_client, tenant)


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Start servers for one test, which may do with them what it likes."""
    servers: list[ValkeyServer] = []

    def start(*options: str, tcp: bool = False) -> ValkeyServer:
        servers.append(ValkeyServer(tmp_path / str(len(servers)), *options, tcp=tcp))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
