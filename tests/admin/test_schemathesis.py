"""schemathesis over the API's own description: no 5xx, no undocumented answer, no way around a role.

`test_conformance.py` asks about things that exist; here schemathesis draws the requests, valid and
not, and its checks judge the answers. Requests go through a real socket.
"""

import asyncio
import importlib
from typing import Any

import pytest
import redis

from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.roles import AdminAccess, Role, token_digest
from gateway.store.keys import TenantKeys
from tests.admin.from_schema import DOCUMENT
from tests.admin.plane import TOKEN, Plane, StartPlane
from tests.admin.test_conformance import read_outbox, read_page, read_statistics
from tests.soak import Sizes
from tests.store.agent import Agent

_FORBIDDEN = 403
_UNKNOWN = 401


async def exercised(
    admin: Plane, token: str, valid: int = 1, invalid: int = 0
) -> dict[str, set[int]]:
    """Return the statuses that each operation answered with."""
    exercise = importlib.import_module("tests.admin.schema_requests").exercise
    url = str(admin.client.make_url("/")).rstrip("/")
    seen: dict[str, set[int]] = await asyncio.to_thread(exercise, url, token, valid, invalid)
    assert len(seen) == sum(map(len, DOCUMENT["paths"].values())) - 1
    return seen


async def serving(plane: StartPlane, *accesses: AdminAccess) -> Plane:
    return await plane(
        read_page=read_page,
        read_outbox=read_outbox,
        read_charge=lambda *_: None,
        read_statistics=read_statistics,
        accesses=accesses,
    )


@pytest.mark.soak
async def test_every_answer_is_documented_and_none_is_a_failure(
    plane: StartPlane, sizes: Sizes
) -> None:
    """For who may do everything."""
    wrong = sizes.api_requests // 2 + 1
    seen = await exercised(await serving(plane), TOKEN, sizes.api_requests, wrong)
    assert not any(_FORBIDDEN in statuses for statuses in seen.values())
    assert sum(200 in statuses for statuses in seen.values()) > len(seen) // 4


async def test_a_viewer_can_change_nothing(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis, tenant: str
) -> None:
    """403 where the description says that more is needed; the store is as it was."""
    await agent.call("PLAN", 10)
    token = "the-viewers-token"
    access = AdminAccess("v", Role.VIEWER, token_digest(token.encode()))
    admin = await serving(plane, access)
    names = TenantKeys(tenant)

    def state() -> tuple[Any, ...]:
        return (
            redis_client.hgetall(names.task("T")),
            redis_client.zrange(names.tasks, 0, -1),
            redis_client.get(names.enforcement),
            redis_client.hgetall(names.key_versions),
            [entry["e"] for _, entry in redis_client.xrange(names.ledger)],
        )

    before = state()
    seen = await exercised(admin, token)
    assert state() == before
    for label, statuses in seen.items():
        method, path = label.split()
        needs_more = "403" in DOCUMENT["paths"][path][method.lower()]["responses"]
        assert (statuses == {_FORBIDDEN}) is needs_more, (label, statuses)


async def test_an_operator_is_refused_what_is_an_admins_and_nothing_else(
    plane: StartPlane, agent: Agent
) -> None:
    await agent.call("PLAN", 10)
    token = "the-operators-token"
    access = AdminAccess("o", Role.OPERATOR, token_digest(token.encode()))
    least = {f"{one.method} {one.path}": one.least_role for one in ALL_ENDPOINTS}
    seen = await exercised(await serving(plane, access), token)
    for label, statuses in seen.items():
        assert (statuses == {_FORBIDDEN}) is (least[label] is Role.ADMIN), (label, statuses)


async def test_without_a_token_nothing_private_is_told(plane: StartPlane) -> None:
    """401 for everything but health, metrics and the description."""
    seen = await exercised(await serving(plane), "")
    for label, statuses in seen.items():
        method, path = label.split()
        public = "401" not in DOCUMENT["paths"][path][method.lower()]["responses"]
        assert statuses == {200} if public else statuses == {_UNKNOWN}, (label, statuses)
