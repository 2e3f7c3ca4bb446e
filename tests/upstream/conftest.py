"""Every test with a loop runs on asyncio's and on uvloop, which serves the data plane."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio
import trustme
import uvloop

from gateway.core.configuration import UpstreamSettings
from gateway.upstream import pool as pool_module
from gateway.upstream.pool import Pool

SWEEP_S = 0.02


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SWEEP_S", SWEEP_S)


@pytest_asyncio.fixture
async def make_pool() -> AsyncIterator[Callable[..., Pool]]:
    """Make pools that are closed with the test."""
    pools: list[Pool] = []

    def make(base_url: str, **settings: Any) -> Pool:
        loop = asyncio.get_running_loop()
        pools.append(Pool("acme", UpstreamSettings(base_url, **settings), loop))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close(0)
