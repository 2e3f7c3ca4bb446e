"""`/admin/v1/sessions/{session}`."""

import json

import pytest
import redis

from gateway.core.phases import WorkPhase
from gateway.core.sessions import Binding, Session, binding_text
from gateway.ports import StaleSession
from gateway.store.keys import TenantKeys
from tests.admin.plane import Plane, StartPlane
from tests.store.agent import Agent

PATH = "/admin/v1/sessions/s-1"


async def test_a_binding_is_made_read_replaced_and_ended(plane: StartPlane) -> None:
    admin = await plane()
    body = {"task": "T", "phase": "implement", "expires_in_s": 60, "by": "orchestrator"}
    made = await admin.ask("PUT", PATH, json=body)
    assert (made.status, made.json["task"], made.json["phase"]) == (200, "T", "IMPLEMENT")
    assert (await admin.get(PATH)).json == made.json
    again = await admin.ask("PUT", PATH, json={"task": "U"})
    assert (again.json["task"], again.json["phase"], again.json["by"]) == ("U", None, "admin")
    assert again.json["expires_ms"] > made.json["expires_ms"]
    assert (await admin.ask("DELETE", PATH)).json == {"session": "s-1", "changed": True}
    assert (await admin.ask("DELETE", PATH)).json["changed"] is False
    gone = await admin.get(PATH)
    assert (gone.status, gone.error["code"]) == (404, "unknown_session")
    assert [event["event"] for event in admin.events] == [
        *("session_bound", "session_bound", "session_unbound")
    ]


async def bound(admin: Plane, *sessions: str, expires_in_s: int = 60) -> None:
    for session in sessions:
        path, body = f"/admin/v1/sessions/{session}", {"task": "T", "expires_in_s": expires_in_s}
        assert (await admin.ask("PUT", path, json=body)).status == 200


async def listed(admin: Plane, limit: int) -> list[list[str]]:
    """The ids of all pages."""
    found, cursor = [], ""
    while True:
        answer = await admin.get(f"/admin/v1/sessions?limit={limit}&cursor={cursor}")
        assert answer.status == 200, answer.text
        found.append([session["session"] for session in answer.json["sessions"]])
        cursor = answer.json["next_cursor"]
        if cursor is None:
            return found


async def test_GW9_bound_sessions_are_listed_in_pages(plane: StartPlane) -> None:
    """The last to expire first; each as its binding is read; what was ended is none of them."""
    admin = await plane()
    assert await listed(admin, 10) == [[]]
    for place, session in enumerate(("s:1", "s-2", "s-3", "s-4")):
        await bound(admin, session, expires_in_s=100 + place)
    assert await listed(admin, 10) == [["s-4", "s-3", "s-2", "s:1"]]
    assert await listed(admin, 3) == [["s-4", "s-3", "s-2"], ["s:1"]]
    assert await listed(admin, 1) == [["s-4"], ["s-3"], ["s-2"], ["s:1"]]
    await bound(admin, "s-2", expires_in_s=1_000)
    assert (await admin.ask("DELETE", "/admin/v1/sessions/s-3")).json["changed"] is True
    assert await listed(admin, 2) == [["s-2", "s-4"], ["s:1"]]
    (first,) = (await admin.get("/admin/v1/sessions?limit=1")).json["sessions"]
    assert first == (await admin.get("/admin/v1/sessions/s-2")).json


async def test_more_sessions_than_are_read_at_once(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    """Of the same moment some; and some whose binding has just gone."""
    admin = await plane()
    names, far_ms = admin.parts.names, 4_000_000_000_000
    ids = [f"s-{number:03}" for number in range(250)]
    for place, one in enumerate(ids):
        redis_client.zadd(names.sessions, {one: far_ms + place // 5})
        if place % 10:
            redis_client.set(names.session(one), binding_text(Binding("T", expires_ms=far_ms)))
    kept = [one for place, one in enumerate(ids) if place % 10][::-1]
    assert await listed(admin, 200) == [kept[:200], kept[200:]]
    assert [one for page in await listed(admin, 7) for one in page] == kept


async def test_what_has_expired_is_not_listed_and_cleared_away(
    plane: StartPlane, redis_client: redis.Redis
) -> None:
    admin = await plane()
    index = admin.parts.names.sessions
    redis_client.zadd(index, {"over": 1})
    assert await listed(admin, 10) == [[]]
    await bound(admin, "s-1")
    assert redis_client.zrange(index, 0, -1) == ["s-1"]


@pytest.mark.parametrize("query", ["cursor=1", "cursor=1:-x", "limit=0", "task=T"])
async def test_a_list_that_is_not_asked_for_rightly(plane: StartPlane, query: str) -> None:
    answer = await (await plane()).get(f"/admin/v1/sessions?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_query")
    assert answer.error["field"] == query.partition("=")[0]


async def test_every_act_is_on_record(plane: StartPlane, redis_client: redis.Redis) -> None:
    """Who and why; an end that ended nothing is none."""
    admin = await plane()
    body = {"task": "T", "phase": "plan", "by": "orchestrator", "reason": "begins"}
    await admin.ask("PUT", PATH, json=body)
    await admin.ask("PUT", PATH, json={"task": "U"})
    for _ in range(2):
        assert (await admin.ask("DELETE", f"{PATH}?by=ada&reason=it%20is%20over")).status == 200
    told = [fields for _, fields in redis_client.xrange(admin.parts.names.ledger)]
    assert {fields["e"].split(" ")[2] for fields in told} == {"session:s-1"}
    acts = [json.loads(fields["d"]) for fields in told]
    assert [(act["action"], act["actor"], act["reason"]) for act in acts] == [
        ("session.bind", "orchestrator", "begins"),
        ("session.bind", "admin", ""),
        ("session.unbind", "ada", "it is over"),
    ]
    assert acts[0]["details"] == {"task": "T", "phase": "PLAN"}
    for query in ("by=%20", "reason=%07", "who=ada", "by=a&by=b"):
        answer = await admin.ask("DELETE", f"{PATH}?{query}")
        assert (answer.status, answer.error["code"]) == (400, "invalid_query")


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/admin/v1/sessions/-x", {"task": "T"}, 400, "session"),
        (PATH, {"task": "-T"}, 422, "task"),
        (PATH, {"task": "T", "phase": "DANCE"}, 422, "phase"),
        (PATH, {"task": "T", "expires_in_s": 0}, 422, "expires_in_s"),
        (PATH, {"task": "T", "until": 3}, 422, "until"),
        (PATH, {}, 422, "task"),
    ],
)
async def test_what_is_no_binding_is_refused(
    plane: StartPlane, path: str, body: object, status: int, field: str
) -> None:
    answer = await (await plane()).ask("PUT", path, json=body)
    assert (answer.status, answer.error["field"]) == (status, field)


async def test_a_change_is_noticed_by_the_next_reserve(
    plane: StartPlane, agent: Agent, redis_client: redis.Redis
) -> None:
    """Made, changed, ended, expired: the copy that a call was planned with is compared."""
    admin, store = await plane(), agent.store
    assert store.session_of(agent.tenant, "s-1") is None
    unbound = await store.read_session(agent.tenant, "s-1")
    assert unbound == Session("s-1")
    assert store.session_of(agent.tenant, "s-1") is unbound
    await agent.reserve(session=unbound)
    for act in ("PUT", "PUT", "DELETE"):
        before = await store.read_session(agent.tenant, "s-1")
        body = {"task": "T", "phase": "PLAN"} if before.binding is None else {"task": "T"}
        await admin.ask(act, PATH, json=body if act == "PUT" else None)
        with pytest.raises(StaleSession):
            await agent.reserve(session=before)
        assert store.session_of(agent.tenant, "s-1") is None
        after = await store.read_session(agent.tenant, "s-1")
        await agent.reserve(session=after)
    await admin.ask("PUT", PATH, json={"task": "T", "phase": "PLAN"})
    bound = await store.read_session(agent.tenant, "s-1")
    assert bound.binding is not None
    assert (bound.binding.task, bound.binding.phase) == ("T", WorkPhase.PLAN)
    assert bound.text == binding_text(bound.binding)
    key = TenantKeys(agent.tenant).session("s-1")
    assert 0 < redis_client.pttl(key) <= 86_400_000
    redis_client.delete(key)  # as when its time is up
    with pytest.raises(StaleSession):
        await agent.reserve(session=bound)
