"""Roles: a viewer's token can change nothing, an operator's nothing of the gateway itself."""

import json
from typing import Any

import pytest
import redis

from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.endpoint import Endpoint
from gateway.admin.roles import AdminAccess, Role, find_access, main_access, token_digest
from tests.admin.plane import WHO, StartPlane
from tests.admin.test_api import PRIVATE_ENDPOINTS, TAKEN, path_of
from tests.store.agent import Agent

EYE, HAND = "the-eye", "the-hand"
ACCESSES = (
    AdminAccess("eye", Role.VIEWER, token_digest(EYE.encode())),
    AdminAccess("hand", Role.OPERATOR, token_digest(HAND.encode())),
)
GRANT = {"kind": "grant", "tokens": 1, **WHO}


def stored(client: redis.Redis, tenant: str) -> dict[Any, Any]:
    """Everything that the tenant has in the store, and all keys."""
    names = [*sorted(client.scan_iter(f"tg:{{{tenant}}}:*")), "tg:{_}:keys"]
    return {name: client.dump(name) for name in names}


@pytest.mark.parametrize(
    "endpoint",
    [endpoint for endpoint in PRIVATE_ENDPOINTS if endpoint.method != "GET"],
    ids=lambda endpoint: endpoint.name,
)
async def test_a_viewer_can_change_nothing(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis, endpoint: Endpoint
) -> None:
    """Each route that is not only for reading needs more; nothing of it is done."""
    await agent.call("PLAN")
    admin = await plane(accesses=ACCESSES)
    before, path = stored(redis_client, agent.tenant), path_of(endpoint)
    body = TAKEN.get(path, {"value": GRANT})["value"]
    answer = await admin.ask(endpoint.method, path, token=EYE, json=body)
    assert answer.status == 403
    assert answer.error["code"] == "forbidden"
    assert (answer.error["role"], answer.error["needs"]) == ("viewer", endpoint.least_role.value)
    assert stored(redis_client, agent.tenant) == before
    assert admin.events == []


@pytest.mark.parametrize(
    "endpoint",
    [endpoint for endpoint in PRIVATE_ENDPOINTS if endpoint.least_role is Role.ADMIN],
    ids=lambda endpoint: endpoint.name,
)
async def test_an_operator_is_no_admin(plane: StartPlane, endpoint: Endpoint) -> None:
    admin = await plane(accesses=ACCESSES)
    answer = await admin.ask(endpoint.method, path_of(endpoint), token=HAND)
    assert (answer.status, answer.error["needs"]) == (403, "admin")


async def test_an_operator_acts_on_tasks_and_the_audit_has_the_token(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    """The approver is who decided; the token says who asked."""
    await agent.call("PLAN")
    admin = await plane(accesses=ACCESSES)
    answer = await admin.ask("POST", "/admin/v1/tasks/T/kill", token=HAND, json=WHO)
    assert answer.status == 200
    assert (await admin.get("/admin/v1/tasks/T", token=EYE)).json["state"] == "killed"
    stream = redis_client.xrange(admin.parts.names.ledger)
    (act,) = [fields for _, fields in stream if fields["e"].startswith("act ")]
    assert json.loads(act["d"])["actor"] == "ada"
    assert json.loads(act["d"])["details"] == {"token": "hand"}


def test_what_only_reads_is_for_viewers() -> None:
    reads = {e.name for e in ALL_ENDPOINTS if e.method == "GET" and e.least_role is Role.VIEWER}
    assert {"listTasks", "getTask", "getSession"} <= reads


def test_a_token_is_found_among_all() -> None:
    accesses = (main_access("main"), *ACCESSES)
    assert [find_access(accesses, token) for token in (b"main", b"the-eye", b"", b"x")] == [
        *(accesses[0], accesses[1], None, None)
    ]
