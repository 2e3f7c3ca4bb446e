"""A stream that nobody drains: an alert on the way, then the oldest entries go, and are counted."""

from typing import Any

import redis

from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.stream_cap import StreamCap, StreamLag


class Notes:
    """ports.Recorder, for events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, level: str = "info", **fields: Any) -> None:
        self.events.append((name, {"level": level, **fields}))

    def call(self, record: Any) -> None:
        raise AssertionError


async def test_the_cap(connection: StoreConnection, redis_client: redis.Redis, tenant: str) -> None:
    """Said once on the way up, and each time that something is lost."""
    names, notes = TenantKeys(tenant), Notes()
    cap = StreamCap(connection, names, notes, 1_000)
    assert await cap.look() == StreamLag()

    def add(entries: int) -> None:
        with redis_client.pipeline() as pipe:
            for _ in range(entries):
                pipe.xadd(names.ledger, {"e": "x"})
            pipe.execute()

    add(501)
    for _ in range(2):
        assert (await cap.look()).waiting == 501
    assert [name for name, _ in notes.events] == ["ledger_stream_filling"]
    add(999)
    lag = await cap.look()
    assert lag.lost == 1_500 - lag.waiting == 500
    assert lag.lag_ms >= 0
    assert notes.events[1:] == [("ledger_entries_lost", {"level": "critical", "entries": 500})]
    redis_client.delete(names.ledger)
    assert await cap.look() == StreamLag(0, 0, 500)
