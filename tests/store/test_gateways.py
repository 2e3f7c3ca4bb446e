"""Gateways of one store see whether they run on the same rules."""

from dataclasses import replace
from typing import Any

import redis

from gateway.core.configuration import Rules
from gateway.core.policy import PolicySet
from gateway.core.prices import PriceTable
from gateway.store.connection import StoreConnection
from gateway.store.gateways import GatewayBook
from gateway.store.keys import TenantKeys
from tests.store.agent import budgets

RULES = Rules(budgets(), PolicySet(policy_hash="aa"), PriceTable({}))
OTHER = replace(RULES, policies=PolicySet(policy_hash="bb"))


class Notes:
    """ports.Recorder, for events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, level: str = "info", **_fields: Any) -> None:
        self.events.append(f"{name} {level}")

    def call(self, record: Any) -> None:
        raise AssertionError


async def test_gateways_with_other_rules_are_told_of(
    connection: StoreConnection, tenant: str
) -> None:
    """After some looks, by both; and again when they agree. One that leaves is forgotten."""
    notes, names = Notes(), TenantKeys(tenant)
    one, two = (GatewayBook(connection, names, notes, name) for name in ("one:1", "two:2"))
    for _ in range(5):
        assert await one.look(RULES) == ()
        assert await two.look(RULES) == ()
    assert notes.events == []
    assert [await two.look(OTHER) for _ in range(3)] == [(), (), ("one:1",)]
    assert [await one.look(RULES) for _ in range(4)] == [(), (), ("two:2",), ("two:2",)]
    assert notes.events == ["rules_differ error"] * 2
    assert await one.look(OTHER) == ()
    assert notes.events[2:] == ["rules_agree info"]
    assert await two.look(RULES) == ("one:1",)
    await one.leave()
    assert await two.look(RULES) == ()


async def test_a_gateway_that_is_gone_is_forgotten(
    connection: StoreConnection, redis_client: redis.Redis, tenant: str
) -> None:
    """One that was killed leaves its page behind."""
    names = TenantKeys(tenant)
    redis_client.hset(names.gateways, "dead:1", "1000 bb cc")
    book = GatewayBook(connection, names, Notes(), "one:1")
    assert [await book.look(RULES) for _ in range(4)] == [()] * 4
    assert redis_client.hkeys(names.gateways) in ([b"one:1"], ["one:1"])
