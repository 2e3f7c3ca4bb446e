"""Routes that cannot be metered, through real sockets: refused when enforcing, flagged otherwise."""

import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNMETERED = (
    "/v1/batches",
    "/v1/messages/batches",
    "/v1/videos",
    "/v1/threads/runs",
    "/v1/fine_tuning/jobs",
    "/v1/realtime/client_secrets",
    "/u/openai/rerank",
)
every_unmetered = pytest.mark.parametrize("path", UNMETERED)


@every_unmetered
@pytest.mark.parametrize("tags", [{}, {"x-task-id": "unmetered"}], ids=["untagged", "tagged"])
async def test_enforcing_refuses(
    enforcing: Gateway, provider: FakeProvider, path: str, tags: dict[str, str]
) -> None:
    """With a message that says what to do; the provider never sees the call."""
    async with enforcing.client() as client:
        answer = await client.post(path, json={}, headers=tags)
    assert answer.status_code == 400
    assert answer.headers["x-tollgate-decision"] == "refuse"
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("billing_error", "unmetered_route")
    assert "free:" in error["message"]
    assert provider.journal == []


async def test_a_gemini_client_reads_it_too(enforcing: Gateway, provider: FakeProvider) -> None:
    """In its own shape."""
    path = "/v1beta/models/gemini-2.5-pro:batchGenerateContent"
    async with enforcing.client() as client:
        answer = await client.post(path, json={})
    assert answer.json()["error"]["details"][0]["reason"] == "unmetered_route"
    assert provider.journal == []


@every_unmetered
async def test_observing_flags(gateway: Gateway, provider: FakeProvider, path: str) -> None:
    """The call passes, and is told of."""
    async with gateway.client() as client:
        answer = await client.post(path, json={})
    assert answer.headers["x-tollgate-decision"] == "flag"
    assert len(provider.journal) == 1
    call_id = answer.headers["x-tollgate-call-id"]
    logged = await until(lambda: gateway.log_events("call", call_id=call_id))
    assert [(line["code"], line["would_refuse"]) for line in logged] == [("unmetered_route", True)]


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/messages/count_tokens", "/v1/files"])
async def test_what_is_free_passes(enforcing: Gateway, provider: FakeProvider, path: str) -> None:
    """No task is created for it."""
    async with enforcing.client() as client:
        answer = await client.post(path, json={"input": "a"}, headers={"x-task-id": "free"})
    assert answer.headers["x-tollgate-decision"] == "allow"
    assert len(provider.journal) == 1
    assert enforcing.task("free") == {}
