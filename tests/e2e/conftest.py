"""Gateways as they run in production, before a provider that lives in this process.

Everything here is on the session's loop: a test module says
`pytestmark = pytest.mark.asyncio(loop_scope="session")`. Gateways that are used as they come are
started once; each test has a task of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway

WORST_CASE = """\
kind: stop_loss
name: worst-case
mode: enforce
enforce_from: any
reserve: worst_case
"""
LINE = 28_080  # tokens that a task may use by default: its cumulative line

_tasks = count(1)

StartGateway = Callable[..., Awaitable[Gateway]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on uvloop: it sends every write at once, also on a listener that was handed to it."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _one_provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(_one_provider: FakeProvider) -> Iterator[FakeProvider]:
    """The provider that all gateways send to, with an empty journal.

    A script ends with its test: the next may use a gateway and never ask for the provider.
    """
    _one_provider.script(None)
    _one_provider.reset()
    yield _one_provider
    _one_provider.script(None)


@pytest.fixture
def task() -> str:
    """A task that no other test uses."""
    return f"T-{next(_tasks)}"


@pytest.fixture
def worst_case(tmp_path: Path) -> str:
    """A policy folder in which holds are worst-case."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "worst-case.yaml").write_text(WORST_CASE)
    return str(folder)


async def _running(
    tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider, **options: Any
) -> AsyncIterator[Gateway]:
    state_dir = tmp_path_factory.mktemp("gateway") / "state"
    async with Gateway(state_dir, provider.base_url, **options) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, _one_provider: FakeProvider
) -> AsyncIterator[Gateway]:
    """One worker, in the mode that is shipped: observe."""
    async for started in _running(tmp_path_factory, _one_provider):
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def enforcing(
    tmp_path_factory: pytest.TempPathFactory, _one_provider: FakeProvider
) -> AsyncIterator[Gateway]:
    """Two workers, enforcing."""
    async for started in _running(tmp_path_factory, _one_provider, workers=2, mode="enforce"):
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def start_gateway(tmp_path: Path, provider: FakeProvider) -> AsyncIterator[StartGateway]:
    """Start gateways with settings of their own; each must end cleanly with the test."""
    started: list[Gateway] = []

    async def start(**options: Any) -> Gateway:
        state_dir = options.pop("state_dir", tmp_path / f"state-{len(started)}")
        url = options.pop("provider_url", provider.base_url)
        gateway = Gateway(state_dir, url, **options)
        started.append(gateway)
        await gateway.start()
        return gateway

    yield start
    for gateway in started:
        await gateway.__aexit__(None, None, None)
