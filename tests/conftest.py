"""What tests of any layer share: a real budget store.

`valkey` is one server for the whole session; each test uses a `tenant` of its own, so nothing is
ever flushed. `store` is what the gateway uses, `redis_client` an independent look at the keys.
`--soak` makes acceptance cases as large as they were promised (`tests/soak.py`).
"""

import os
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from itertools import count

import pytest
import pytest_asyncio
import redis
from hypothesis import settings

from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from tests import soak
from tests.store.valkey_server import ValkeyServer

_FROM_OUTSIDE = {"e2e", "loadtest"}
_OF_PROCESSES = {
    "test_app",
    "test_cli",
    "test_supervisor",
    "test_token_count",
    "test_translator_process",
    "test_worker_process",
    "test_writer_process",
}
_FIRST_WORKER = "gw0"
_tenants = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one switch between short and full sizes."""
    parser.addoption("--soak", action="store_true", help="run soak cases at their full size")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many random examples are tried, before any test is read."""
    if config.getoption("--soak"):
        settings.load_profile(soak.PROFILE)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Measure in one process what importing runs: in the others it only takes twice as long."""
    tracer = sys.gettrace()
    if os.environ.get("PYTEST_XDIST_WORKER", _FIRST_WORKER) != _FIRST_WORKER:
        sys.settrace(None)
    collected = yield
    sys.settrace(tracer)
    return collected


@pytest.fixture(autouse=True)
def _unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure no coverage where that only costs time.

    In tests that are marked `repeats` it would double it; in `_FROM_OUTSIDE` the gateway is another
    process, and what runs here are clients and a provider. Processes that tests start are measured
    where they are what is tested.
    """
    if request.path.stem not in _OF_PROCESSES:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    repeats = request.node.get_closest_marker("repeats") is not None
    if not repeats and request.path.parent.name not in _FROM_OUTSIDE:
        yield
        return
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> soak.Sizes:
    """How large acceptance cases are in this run."""
    return soak.FULL if pytestconfig.getoption("--soak") else soak.SHORT


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running server; it ends with the session, however that ends."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"tenant-{next(_tenants)}"


@pytest.fixture
def redis_client(valkey: str) -> Iterator[redis.Redis]:
    """A client that shares no code with the gateway's own."""
    with redis.Redis.from_url(valkey, decode_responses=True) as client:
        yield client


@pytest_asyncio.fixture
async def connection(valkey: str) -> AsyncIterator[StoreConnection]:
    """An open connection without a timeout."""
    opened = StoreConnection(parse_store_url(valkey))
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def store(connection: StoreConnection) -> RedisStore:
    """The gateway's store, by the server's clock; set `now_ms` for virtual time."""
    return RedisStore(connection)
