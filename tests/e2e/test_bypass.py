"""An agent whose task is spent tries to go on: nothing may reach the provider (GW-1).

One enforcing gateway, one task that has used up its budget. What is open by design, a task id that
nobody has used yet above all, is in `docs/threat-model.md`.
"""

import json
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from gateway.core.keys import GatewayKey, TagTexts, secret_digest
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.key_store import KeyStore
from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

TASK = "T-spent"
SECRET = "s" * 40
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
SPENT = {"x-task-id": TASK, "x-task-phase": "VERIFY"}
GEMINI = {"contents": [{"parts": [{"text": "hi"}]}]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def _spent(enforcing: Gateway) -> None:
    """Uses the task's budget up."""
    headers = {**SPENT, "x-fake-prompt-tokens": "40000", "x-fake-completion-tokens": "0"}
    async with enforcing.client() as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200
    await enforcing.settled(TASK, 1)


@pytest.fixture
def spent(enforcing: Gateway, _spent: None, provider: FakeProvider) -> Gateway:
    """A gateway whose task has spent its budget."""
    return enforcing


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    code = error.get("code")
    return code if isinstance(code, str) else str(error["details"][0]["reason"])


async def tried(
    gateway: Gateway,
    method: str,
    path: str,
    body: object = CHAT,
    headers: list[tuple[str, str]] | dict[str, str] | None = None,
) -> httpx.Response:
    """Make one attempt: a path that httpx does not tidy up, and a body as it stands."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with gateway.client() as client:
        request = client.build_request(
            method, "/", content=content, headers=SPENT if headers is None else headers
        )
        request.extensions["target"] = path.encode()
        return await client.send(request)


# The same call in another spelling ----------------------------------------------------------------

SAME_CALL = (
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "/v1/Chat/COMPLETIONS",
    "/v1/chat/%63ompletions",
    "/v1/chat/completions;x=1",
    "/v1/chat/completions%20",
    "/v1/v1/chat/completions",
    "/v1/chat/completions?alt=sse&key=tg-x",
    "/u/openai/chat/completions",
    "/u/openai/openai/deployments/gpt-4o/chat/completions?api-version=1",
    f"/t/{TASK}/VERIFY/v1/chat/completions",
    f"/t/{TASK}/VERIFY/u/openai/t/other/-/v1/chat/completions",
    f"/t/{TASK}/VERIFY/u/openai/u/gemini/v1/chat/completions",
)


@pytest.mark.parametrize("path", SAME_CALL)
async def test_a_spent_task_is_stopped(spent: Gateway, provider: FakeProvider, path: str) -> None:
    """However its path is spelt."""
    answer = await tried(spent, "POST", path)
    assert (answer.status_code, code_of(answer)) == (400, "task_budget_exceeded")
    assert provider.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "m", "prompt": "hi", "best_of": 20}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}),
        ("/v1/responses", {"model": "gpt-5", "input": "hi", "background": True, "store": True}),
        ("/v1/responses", {"model": "gpt-5", "input": "hi", "previous_response_id": "resp_1"}),
        ("/v1/messages", {"model": "claude-opus-4-5", "max_tokens": 1, "messages": []}),
        ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "a cat", "n": 1}),
        ("/v1beta/models/gemini-2.5-pro:generateContent", GEMINI),
        ("/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse", GEMINI),
    ],
)
async def test_every_dialect_stops(
    spent: Gateway, provider: FakeProvider, path: str, body: object
) -> None:
    answer = await tried(spent, "POST", path, body)
    assert (answer.status_code, code_of(answer)) == (400, "task_budget_exceeded")
    assert provider.requests == []


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": None},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 10**9},
        {"n": 0},
        {"n": 100},
        {"service_tier": "flex"},
        {"store": True, "stream": True, "stream_options": {"include_usage": False}},
    ],
)
async def test_no_member_of_a_body_helps(
    spent: Gateway, provider: FakeProvider, members: dict[str, object]
) -> None:
    answer = await tried(spent, "POST", "/v1/chat/completions", {**CHAT, **members})
    assert (answer.status_code, code_of(answer)) == (400, "task_budget_exceeded")
    assert provider.requests == []


# What cannot be read as one thing -----------------------------------------------------------------

PLAIN = json.dumps(CHAT).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN.decode().encode("utf-16"),
        PLAIN + b"{}",
        b'{"model": "gpt-4o", "model": "o3", "messages": []}',
        b'{"model": "gpt-4o", "Max_Tokens": 9, "messages": []}',
        b'{"model": "gpt-4o", "max_tokens": "5", "messages": []}',
        b'{"model": "gpt-4o", "max_tokens": 1e400, "messages": []}',
        b'{"model": "gpt-4o", "n": 1e9, "messages": []}',
        b'{"model": ["gpt-4o"], "messages": []}',
    ],
)
async def test_a_body_that_two_could_read_two_ways(
    spent: Gateway, provider: FakeProvider, body: bytes
) -> None:
    """Is refused, whatever the task."""
    answer = await tried(spent, "POST", "/v1/chat/completions", body, {})
    assert (answer.status_code, code_of(answer)) == (400, "invalid_body")
    assert provider.requests == []


@pytest.mark.parametrize("coding", ["gzip", "identity, gzip", "br", "x"])
async def test_an_encoded_body(spent: Gateway, provider: FakeProvider, coding: str) -> None:
    answer = await tried(
        spent, "POST", "/v1/chat/completions", headers={**SPENT, "content-encoding": coding}
    )
    assert code_of(answer) == "unsupported_encoding"
    assert provider.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/files/../chat/completions",
        "/v1/files/%2e%2e/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat\\completions",
        "/v1/files?_method=POST",
        "/v1/chat/completions?$httpMethod=POST",
        "/v1/chat/completions?%5Fmethod=POST",
    ],
)
async def test_an_odd_target(spent: Gateway, provider: FakeProvider, path: str) -> None:
    answer = await tried(spent, "POST", path)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_target")
    assert provider.requests == []


# What is not metered ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/chat/completions"),
        ("PATCH", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions"),
        ("OPTIONS", "/v1/messages"),
        ("POST", "/v1/chat/completions%3Fx/files"),
        ("POST", "/v1/chat/completions%253Fx/files"),
        ("POST", "/v1/chat/completions;x/files"),
        ("POST", "/v1beta/models/gemini-2.5-pro:generateContent:countTokens"),
        ("POST", "/v1beta/models/gemini-embedding-001:embedContent"),
        ("POST", "/v1beta/models/gemini-embedding-001:batchEmbedContents"),
        ("POST", "/v1beta/models/imagen-4:predict"),
        ("POST", "/v1/complete"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/assistants"),
        ("POST", "/v1/threads/runs"),
        ("POST", "/v1/threads/thread_1/runs"),
        ("POST", "/v1/videos"),
        ("POST", "/v1/evals/eval_1/runs"),
        ("POST", "/u/openai/model/claude/converse"),
        ("GET", "/v1/realtime"),
    ],
)
@pytest.mark.parametrize("tags", [SPENT, {}], ids=["tagged", "untagged"])
async def test_what_has_no_meter_is_refused(
    spent: Gateway, provider: FakeProvider, method: str, path: str, tags: dict[str, str]
) -> None:
    answer = await tried(spent, method, path, headers=tags)
    assert (answer.status_code, code_of(answer)) == (400, "unmetered_route")
    assert provider.requests == []


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method"]
)
async def test_no_header_names_another_method(
    spent: Gateway, provider: FakeProvider, name: str
) -> None:
    """A request that reads stays one at the provider."""
    answer = await tried(spent, "GET", "/v1/models", b"", {**SPENT, name: "POST"})
    assert answer.status_code == 200
    (request,) = provider.requests
    assert request.method == "GET"
    assert not any(b"method" in header.lower() for header, _ in request.headers)


# Whose task it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tags",
    [
        [("X-TASK-ID", TASK), ("X-Task-Phase", "verify")],
        [("x-task-id", TASK), ("x-task-id", "T-fresh"), ("x-task-phase", "VERIFY")],
        [("x-task-id", ""), ("x-task-id", TASK), ("x-task-phase", "VERIFY")],
        [("baggage", f"a=b,task.id={TASK};p=1,task.id=T-fresh,task.phase=VERIFY")],
        [("baggage", "task.phase=VERIFY"), ("baggage", f"TASK.ID={TASK}")],
        [("x-task-id", TASK), ("baggage", "task.id=T-fresh"), ("x-task-phase", "VERIFY")],
        [("x-task-id", TASK), ("x_task_id", "T-fresh"), ("x-task-phase", "VERIFY")],
        [("x-task-id", TASK), ("x-task-phase", "VERIFY"), ("x-task-complexity", "EPIC")],
        [("x-task-id", TASK), ("x-task-phase", "VERIFY"), ("x-task-importance", "CRITICAL")],
    ],
)
async def test_the_first_task_named_pays(
    spent: Gateway, provider: FakeProvider, tags: list[tuple[str, str]]
) -> None:
    """A second one beside it is not heard; neither are tiers that would fit a larger budget."""
    answer = await tried(spent, "POST", "/v1/chat/completions", headers=tags)
    assert code_of(answer) in ("task_budget_exceeded", "invalid_tag")
    assert provider.requests == []


@pytest.mark.parametrize("task", ["-anonymous", "a b", "a/b", "\u00e9", "x" * 129, "."])
async def test_an_odd_task_is_no_task(spent: Gateway, provider: FakeProvider, task: str) -> None:
    """And not an untagged call either."""
    async with spent.client() as client:
        tags = {b"x-task-id": task.encode("latin-1")}
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=tags)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_tag")
    assert provider.requests == []


# With a gateway key -------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pinned(enforcing: Gateway) -> AsyncIterator[str]:
    """A key that is bound to the spent task, one upstream and small models."""
    key = GatewayKey(
        secrets.token_hex(4),
        secret_digest(SECRET.encode()),
        "an agent",
        upstreams=("openai",),
        models=("gpt-4o*",),
        may_set=("phase",),
        pins=TagTexts(task=TASK),
    )
    connection = StoreConnection(parse_store_url(enforcing.store_url))
    await connection.open()
    await KeyStore(connection).add(key)
    await connection.close()
    yield f"tg-{key.id}-{SECRET}"


@pytest.mark.parametrize(
    ("path", "tags", "code"),
    [
        ("/v1/chat/completions", {"x-task-phase": "VERIFY"}, "task_budget_exceeded"),
        ("/v1/chat/completions", {"x-task-id": "T-fresh"}, "forbidden_tag"),
        ("/v1/chat/completions", {"baggage": "task.id=T-fresh"}, "forbidden_tag"),
        ("/v1/chat/completions", {"x-task-parent": "T-fresh"}, "forbidden_tag"),
        ("/v1/chat/completions", {"x-task-grace": "1"}, "forbidden_tag"),
        ("/t/T-fresh/-/v1/chat/completions", {}, "forbidden_tag"),
        ("/u/gemini/v1/chat/completions", {}, "forbidden_upstream"),
        ("/u/openai/openai/deployments/o3/chat/completions", {}, "forbidden_model"),
        (
            "/u/openai/openai/deployments/gpt-4o/deployments/o3/chat/completions",
            {},
            "forbidden_model",
        ),
    ],
)
async def test_a_key_that_pins_leaves_no_way_out(
    spent: Gateway,
    provider: FakeProvider,
    pinned: str,
    path: str,
    tags: dict[str, str],
    code: str,
) -> None:
    """Neither to another task nor to another upstream or model."""
    answer = await tried(spent, "POST", path, headers={"x-api-key": pinned, **tags})
    assert code_of(answer) == code
    assert provider.requests == []


async def test_two_keys(spent: Gateway, provider: FakeProvider, pinned: str) -> None:
    """One that proves nothing is not made up for by another."""
    headers = [("x-tollgate-key", "tg-aaaaaaaa-" + SECRET), ("x-api-key", pinned)]
    answer = await tried(spent, "POST", "/v1/chat/completions", headers=headers)
    assert (answer.status_code, code_of(answer)) == (401, "invalid_key")
    assert provider.requests == []
