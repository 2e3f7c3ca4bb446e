"""The application as a whole: who may ask, and how errors look."""

import asyncio
import json

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.admin.answers import shape_errors
from gateway.admin.api import ALL_ENDPOINTS, build_admin
from gateway.admin.endpoint import Endpoint
from gateway.admin.examples import REQUEST_EXAMPLES
from gateway.core.errors import InvalidConfigError
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from tests.admin.plane import TOKEN, WHO, StartPlane, parts_without_store
from tests.store.agent import Agent


def path_of(endpoint: Endpoint) -> str:
    """The route for task T and one of its phases."""
    path = endpoint.path.replace("{id}", "T").replace("{phase}", "PLAN")
    return path.replace("{session}", "s-1").replace("{call}", "c-1").replace("{key}", "k3y1d4aa")


PRIVATE_ENDPOINTS = [endpoint for endpoint in ALL_ENDPOINTS if not endpoint.public]
PRIVATE = [(endpoint.method, path_of(endpoint)) for endpoint in PRIVATE_ENDPOINTS]
OF_STORE = [(e.method, path_of(e)) for e in PRIVATE_ENDPOINTS if e.uses_store]
TAKEN = {
    path_of(endpoint): next(iter(REQUEST_EXAMPLES[endpoint.takes].values()))
    for endpoint in ALL_ENDPOINTS
    if endpoint.takes is not None
}
PUBLIC = [endpoint.path for endpoint in ALL_ENDPOINTS if endpoint.public]
PATIENCE_S = 30
GRANT = {"kind": "grant", "tokens": 1, **WHO}


# Who may ask --------------------------------------------------------------------------------------


def test_without_a_token_there_is_no_admin_plane() -> None:
    """An empty token would be equal to an empty one in the header."""
    with pytest.raises(InvalidConfigError, match="Remedy"):
        build_admin(parts_without_store(""))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer t\u00f6ken",
    ],
)
async def test_the_api_asks_for_the_token(plane: StartPlane, authorization: str | None) -> None:
    """Everywhere; without it nothing is told, not even whether there is such a place."""
    admin = await plane()
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in [*PRIVATE, ("GET", "/admin/v1/nothing")]:
        answer = await admin.ask(method, path, token=None, headers=headers)
        assert answer.status == 401, (method, path)
        assert answer.error["code"] == "invalid_token"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
    assert admin.events == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_the_api(plane: StartPlane, scheme: str) -> None:
    """The scheme's letter case does not matter (RFC 9110 section 11.1)."""
    admin = await plane()
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    answer = await admin.get("/admin/v1/tasks", token=None, headers=headers)
    assert answer.status == 200


@pytest.mark.parametrize("path", PUBLIC)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_some_places_need_no_token(plane: StartPlane, method: str, path: str) -> None:
    """Probes and scrapers have none."""
    assert (await (await plane()).ask(method, path, token=None)).status == 200


# How errors look ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/admin/v1/nothing", "/admin/v1/tasks/T/nothing", "/nothing"])
async def test_an_unknown_place(plane: StartPlane, path: str) -> None:
    answer = await (await plane()).get(path)
    assert answer.status == 404
    assert answer.error["code"] == "not_found"
    assert path in answer.error["message"]
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("DELETE", "/admin/v1/tasks", {"GET", "HEAD", "POST"}),
        ("PUT", "/admin/v1/tasks/T", {"GET", "HEAD"}),
        ("GET", "/admin/v1/tasks/T/kill", {"POST"}),
    ],
)
async def test_a_method_that_is_not_possible(
    plane: StartPlane, method: str, path: str, allowed: set[str]
) -> None:
    answer = await (await plane()).ask(method, path)
    assert answer.status == 405
    assert answer.error["code"] == "method_not_allowed"
    assert set(answer.headers["Allow"].split(",")) == allowed


async def test_a_body_that_is_too_large(plane: StartPlane, agent: Agent) -> None:
    """It is refused before it is read to its end."""
    await agent.call("PLAN")
    answer = await (await plane()).override({**GRANT, "reason": "x" * 70_000})
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"


async def test_any_other_http_error_has_the_same_shape() -> None:
    """Whatever else aiohttp raises."""

    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPNotAcceptable

    answer = await shape_errors(make_mocked_request("GET", "/"), handler)
    assert isinstance(answer, web.Response)
    assert answer.status == 406
    assert json.loads(answer.text or "")["error"]["code"] == "bad_request"


async def test_a_bug_is_logged_and_told_without_detail(
    plane: StartPlane, redis_client: redis.Redis, tenant: str
) -> None:
    """What went wrong stands in the log, not in the answer."""
    admin = await plane()
    redis_client.hset(TenantKeys(tenant).task("T"), mapping={"facts": "?", "snapshot": "{}"})
    answer = await admin.get("/admin/v1/tasks/T")
    assert answer.status == 500
    assert answer.error["code"] == "internal_error"
    (event,) = admin.events
    assert event["event"] == "admin_request_failed"
    assert event["level"] == "error"
    assert event["path"] == "/admin/v1/tasks/T"
    assert "ValidationError" in event["error"]


@pytest.mark.parametrize(("method", "path"), OF_STORE)
async def test_a_dead_store(plane: StartPlane, method: str, path: str) -> None:
    """It is told at once."""
    admin = await plane(store=StoreConnection(StoreAddress(path="/nowhere")))
    answer = await admin.ask(method, path, json=TAKEN.get(path, {"value": GRANT})["value"])
    assert answer.status == 503
    assert answer.error["code"] == "budget_store_unavailable"
    assert answer.headers["Retry-After"] == "2"


@pytest.mark.parametrize(("method", "path"), OF_STORE)
async def test_a_store_that_does_not_answer(
    plane: StartPlane,
    connection: StoreConnection,
    agent: Agent,
    redis_client: redis.Redis,
    method: str,
    path: str,
) -> None:
    """A connection without a timeout of its own does not keep the admin plane waiting."""
    await agent.call("PLAN")
    admin = await plane(wait_s=0.05)
    await hold_up_one(connection, redis_client)
    answer = await admin.ask(method, path, json=TAKEN.get(path, {"value": GRANT})["value"])
    assert answer.status == 503
    assert answer.error["code"] == "budget_store_unavailable"
    await let_go(connection, redis_client)
    async with asyncio.timeout(PATIENCE_S):  # a busy machine may need longer than 50 ms
        while (await admin.get("/admin/v1/tasks/T")).status != 200:
            await asyncio.sleep(0.01)


async def hold_up_one(connection: StoreConnection, client: redis.Redis) -> None:
    """Let the server answer nothing more on this connection, but on all others."""
    client.delete("tg:{hold-up}:list")
    held = connection.send("BLPOP", "tg:{hold-up}:list", 0)
    await asyncio.sleep(0)
    assert not held.done()


async def let_go(connection: StoreConnection, client: redis.Redis) -> None:
    client.rpush("tg:{hold-up}:list", "x")
    await connection.execute("PING")
