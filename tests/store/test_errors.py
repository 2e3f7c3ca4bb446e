"""A store that answers, but with an error: each is a failure to reserve, and a journal entry to settle."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from gateway.core.errors import StoreError
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.guard import GuardedStore
from gateway.store.journal import Journal
from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, settlement
from tests.store.test_guard import Clock, Events
from tests.store.valkey_server import ValkeyServer

SPIN = "while redis.call('EXISTS', KEYS[1]) == 0 do end"


@contextmanager
def out_of_memory(client: redis.Redis) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextmanager
def a_replica(client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def a_script_that_runs_on(client: redis.Redis) -> Iterator[None]:
    client.config_set("busy-reply-threshold", 1)

    def spin() -> None:
        with (
            pytest.raises(redis.ResponseError),
            redis.Redis(unix_socket_path=client.connection_pool.connection_kwargs["path"]) as other,
        ):
            other.eval(SPIN, 1, "never")

    spinning = threading.Thread(target=spin)
    spinning.start()
    while True:
        try:
            client.ping()
        except redis.exceptions.ResponseError:
            break
        time.sleep(0.01)
    yield
    client.script_kill()
    spinning.join()


@contextmanager
def no_right_to_write(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    yield
    client.execute_command("ACL", "SETUSER", "default", "+@all")


TROUBLES = {
    "oom": out_of_memory,
    "readonly": a_replica,
    "busy": a_script_that_runs_on,
    "noperm": no_right_to_write,
}


@pytest.mark.parametrize("reason", TROUBLES)
async def test_an_answer_that_is_an_error(
    reason: str, start_valkey: Callable[..., ValkeyServer], tenant: str, tmp_path: Path
) -> None:
    """What was used meanwhile is kept, and charged once as soon as the store takes it."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url), 2_000)
    await connection.open()
    store, events, clock = RedisStore(connection), Events(), Clock()
    guarded, agent = (
        GuardedStore(store, Journal(tmp_path, "w"), events, clock),
        Agent(store, tenant),
    )
    plan = agent.plan("VERIFY")
    await guarded.reserve(plan)
    with server.client() as client, TROUBLES[reason](client):
        with pytest.raises(StoreError) as error:
            await guarded.reserve(agent.plan("VERIFY"))
        assert error.value.reason == reason
        await guarded.settle(settlement(plan))
        assert events.names.count("journalled") == 1
        assert await guarded.replay() == 0
    assert await guarded.replay() == 1
    assert (await guarded.settle(settlement(plan))).duplicate
    with server.client() as client:
        key = store.keys(tenant).task("T")
        assert client.hmget(key, "tokens.S", "tokens.H", "calls.S") == ["15800", "0", "1"]
    await connection.close()
