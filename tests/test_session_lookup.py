"""Which calls' sessions are looked up, and how a change holds for the next call."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio

from gateway.core.errors import StoreError
from gateway.core.identity import Tags
from gateway.core.keys import GatewayKey, TagTexts
from gateway.core.phases import WorkPhase
from gateway.core.policy import Mode
from gateway.core.sessions import Binding, Session
from gateway.core.untagged import UntaggedCallsPolicy, UntaggedEffect
from gateway.session_lookup import look_up_session
from gateway.store.keys import TenantKeys
from gateway.store.sessions import bind_session, unbind_session
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, OtherStore, bench, rules

HEADERS = [(b"session-id", b"s-1")]
NAMES = ("session-id",)
UNTAGGED = Tags()


class Sessions:
    """A store that knows sessions, and counts how often it is asked."""

    def __init__(self, *known: Session, fails: bool = False) -> None:
        self.known = {session.id: session for session in known}
        self.fails = fails
        self.asked = 0

    def session_of(self, tenant: str, session_id: str) -> Session | None:
        return self.known.get(session_id)

    async def read_session(self, tenant: str, session_id: str) -> Session:
        self.asked += 1
        if self.fails:
            raise StoreError("timeout", "no answer")
        return Session(session_id)


async def look_up(
    store: Any, tags: Tags = UNTAGGED, key: GatewayKey | None = None, headers: Any = HEADERS
) -> Session | None:
    return await look_up_session(store, "tenant", NAMES, headers, tags, key)


async def test_a_session_is_looked_up_only_where_it_can_matter() -> None:
    key = GatewayKey("k3v9q2xa", "digest", "an agent")
    pinned = GatewayKey("k3v9q2xa", "digest", "an agent", pins=TagTexts(task="P"))
    store = Sessions()
    assert await look_up(store, Tags(task="T")) is None
    assert await look_up(store, key=pinned) is None
    assert await look_up(store, headers=[]) is None
    assert store.asked == 0
    assert await look_up(store, key=key) == Session("s-1")
    assert store.asked == 1


async def test_a_copy_serves() -> None:
    copy = Session("s-1", "text", Binding("T"))
    store = Sessions(copy)
    assert await look_up(store) is copy
    assert store.asked == 0


async def test_a_store_that_fails_binds_nothing() -> None:
    """The reserve will tell: it compares that there is no binding."""
    assert await look_up(Sessions(fails=True)) == Session("s-1")


# The next call ------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


def chat(*lines: str) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: t", "Session_id: s-1", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def told(serving: Bench, data: bytes) -> tuple[str, str]:
    """Make a call, and return the task and phase that its record names."""
    calls = len(serving.told.calls)
    async with serving.client() as client:
        assert (await client.ask(data)).status == 200
        await serving.recorded(calls + 1)
    return serving.told.calls[-1].task, serving.told.calls[-1].phase


async def test_GW9_a_binding_holds_for_the_next_call(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """On a gateway that has a copy; which is asked for once, as long as nothing changes."""
    asked = []

    def watched(doors: Any) -> Any:
        async def read(tenant: str, session_id: str) -> Session:
            asked.append(session_id)
            return await doors.store.read_session(tenant, session_id)

        return replace(doors, store=OtherStore(doors.store, read_session=read))

    async with bench(valkey, provider.base_url, tenant, doors=watched) as serving:
        connection, names = serving.store.connection, TenantKeys(tenant)
        far = 4_000_000_000_000
        assert await told(serving, chat()) == ("-", "-")
        await bind_session(connection, names, "s-1", Binding("A", WorkPhase.PLAN, expires_ms=far))
        assert await told(serving, chat()) == ("A", "PLAN")
        assert await told(serving, chat()) == ("A", "PLAN")
        assert await told(serving, chat("X-Task-Id: H")) == ("H", "-")
        assert await told(serving, chat("X-Task-Phase: PR")) == ("A", "PR")
        assert len(asked) == 2
        await bind_session(connection, names, "s-1", Binding("B", expires_ms=far))
        assert await told(serving, chat()) == ("B", "-")
        await unbind_session(connection, names, "s-1")
        assert await told(serving, chat()) == ("-", "-")
        assert len(asked) == 4
        assert serving.task("A")["calls.S"] == "3"
        assert serving.task("B")["calls.S"] == "1"


async def test_a_call_is_bound_anew_before_it_is_refused_for_want_of_a_task(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """The worker's copy may be old; without a session, or a binding, the call is refused."""
    required = (UntaggedCallsPolicy(mode=Mode.ENFORCE, effect=UntaggedEffect.REFUSE),)
    policies = replace(rules().policies, untagged_calls=required)
    in_force = rules(policies=policies)
    async with bench(valkey, provider.base_url, tenant, in_force) as serving:
        async with serving.client() as client:
            reply = await client.ask(chat())
            assert (reply.status, b"tags_required" in reply.body) == (400, True)
            assert b"X-Task-Id" in reply.body
            assert serving.told.calls[-1].code == "tags_required"
            bound = Binding("A", WorkPhase.PLAN, expires_ms=4_000_000_000_000)
            await bind_session(serving.store.connection, TenantKeys(tenant), "s-1", bound)
            await serving.recorded(1)
        assert await told(serving, chat()) == ("A", "PLAN")
        assert len(provider.journal) == 1
