"""A server that is not fit to keep balances is noticed."""

from collections.abc import Callable

import pytest
import redis

from gateway.core.errors import StoreError
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.examine import EpochWatch, epoch, may_evict, refuse_cluster
from gateway.store.keys import TenantKeys
from tests.store.valkey_server import ValkeyServer


async def test_a_cluster_node_is_refused(start_valkey: Callable[..., ValkeyServer]) -> None:
    """With the reason and a remedy, instead of failing at the first call."""
    server = start_valkey("--cluster-enabled", "yes", tcp=True)
    connection = StoreConnection(parse_store_url(server.url))
    with pytest.raises(StoreError, match=r"Remedy: use a single server") as error:
        await connection.open()
        await refuse_cluster(connection)
    assert error.value.reason == "cluster"
    await connection.close()


async def test_a_single_server_is_taken(connection: StoreConnection) -> None:
    """The embedded kind never evicts."""
    await refuse_cluster(connection)
    assert not await may_evict(connection)


async def test_A1_eviction_is_noticed(start_valkey: Callable[..., ValkeyServer]) -> None:
    """A cache's settings would forget what was spent."""
    server = start_valkey("--maxmemory-policy", "allkeys-lru")
    connection = StoreConnection(parse_store_url(server.url))
    await connection.open()
    assert await may_evict(connection)
    await connection.close()


async def test_nothing_is_said_where_config_is_forbidden(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    """A managed server may not let its settings be read."""
    server = start_valkey("--rename-command", "CONFIG", "")
    connection = StoreConnection(parse_store_url(server.url))
    await connection.open()
    assert not await may_evict(connection)
    await connection.close()


async def test_a_server_that_lost_its_data_is_noticed(
    connection: StoreConnection, redis_client: redis.Redis, tenant: str
) -> None:
    """Once for each loss; gateways agree on the epoch."""
    names = TenantKeys(tenant)
    watch = EpochWatch(connection, names)
    assert not await watch.lost_data()
    assert not await watch.lost_data()
    assert await epoch(connection, names) == redis_client.get(names.epoch)
    redis_client.delete(names.epoch)
    assert await watch.lost_data()
    assert not await watch.lost_data()
