"""The admin plane over a real store, an agent whose calls it shows, and what it logged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from gateway.admin.api import AdminParts, build_admin
from gateway.admin.parts import (
    ReadOutbox,
    no_charge,
    no_outbox,
)
from gateway.admin.roles import AdminAccess
from gateway.core.configuration import Rules
from gateway.store.connection import StoreConnection
from gateway.store.correction import Charge
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore
from gateway.telemetry.counters import Counters
from tests.admin.plane import HEALTHY, RULES, TOKEN, Plane
from tests.store.agent import Agent

_OF_PARTS = ("read_page", "follow_ledger", "reload", "read_report", "read_statistics")


@pytest.fixture
def plane(
    connection: StoreConnection, tenant: str, aiohttp_client: Callable[..., Any]
) -> Callable[..., Any]:
    """Start an admin plane: `await plane()`; keywords change its health, some its parts."""

    async def start(
        wait_s: float = 5.0,
        store: StoreConnection = connection,
        rules: Rules = RULES,
        read_charge: Callable[[str, str], Charge | None] = no_charge,
        read_outbox: ReadOutbox = no_outbox,
        accesses: tuple[AdminAccess, ...] = (),
        **changes: Any,
    ) -> Plane:
        events: list[dict[str, Any]] = []
        counters = Counters()
        given = {name: changes.pop(name) for name in _OF_PARTS if name in changes}

        def event(name: str, level: str = "info", **fields: object) -> None:
            events.append({"event": name, "level": level, **fields})

        parts = AdminParts(
            connection=store,
            names=TenantKeys(tenant),
            token=TOKEN,
            health=lambda: replace(HEALTHY, **changes),
            counters=counters,
            event=event,
            rules=lambda: rules,
            read_charge=read_charge,
            read_outbox=read_outbox,
            **given,
            accesses=accesses,
        )
        client: TestClient[Any, Any] = await aiohttp_client(build_admin(parts, wait_s))
        return Plane(client, parts, counters, events)

    return start


@pytest.fixture
def agent(store: RedisStore, tenant: str) -> Agent:
    """An agent working on task T, by the server's clock."""
    return Agent(store, tenant)
