"""`tracking.enabled: false`: a proxy and nothing else."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.enforcement import Switch
from gateway.core.errors import BadCall
from gateway.core.identity import identify
from gateway.core.keys import GatewayKey
from gateway.core.routing import Routing
from gateway.ports import Request
from gateway.trace import Trace
from gateway.untracked import read_untracked, unread
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, bench, rules

STREAMED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


class NoStore:
    """A store of which nothing may be asked."""

    def switch_of(self, tenant: str) -> Switch:
        """Return a copy, for which nothing is asked."""
        return Switch()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked: {name}")


async def test_RBK2_step_2_is_a_pure_proxy(
    valkey: str, provider: FakeProvider, tenant: str
) -> None:
    """No store, no headers of ours, no edit of the body, whatever policies, tags and routes say."""

    def without_store(doors: Any) -> Any:
        return replace(doors, store=NoStore())

    body = json.dumps(STREAMED).encode()
    in_force = rules(ENFORCING)
    async with bench(
        valkey, provider.base_url, tenant, in_force, doors=without_store, tracking=False
    ) as serving:
        tags = b"X-Task-Id: T\r\nX-Task-Phase: DANCE\r\nSession-Id: s-1\r\n"
        for target, data in ((b"chat/completions", body), (b"chat/completions", body[:-1])):
            head = b"POST /v1/%s HTTP/1.1\r\nHost: t\r\n%sContent-Length: %d\r\n\r\n"
            async with serving.client() as client:
                reply = await client.ask(head % (target, tags, len(data)) + data)
            ours = ("x-tollgate-", "x-budget-")
            assert [name for name in reply.headers if name.lower().startswith(ours)] == []
        await serving.recorded(2)
        assert provider.requests[0].body == body
        assert [record.outcome for record in serving.told.calls] == ["allow", "allow"]
        assert {record.tokens for record in serving.told.calls} == {0}
        assert serving.told.events == []
    assert provider.journal[0].status == 200


def test_a_call_that_cannot_be_read_passes_unless_its_key_bounds_models() -> None:
    request = Request(b"POST", b"/v1/chat/completions", [], b"{", 0.0)
    trace = Trace("c1", request, "hash")
    with pytest.raises(ValueError, match="route"):
        read_untracked(trace, Routing({}))
    trace.tags, trace.route = identify(request.target, request.headers)
    call = read_untracked(trace, Routing({}))
    assert (call.asked, unread(call).wire) == (None, None)
    trace.key = GatewayKey("k3v9q2xa", "digest", "an agent", models=("m",))
    with pytest.raises(BadCall):
        read_untracked(trace, Routing({}))
