"""The official SDK through the gateway: the same objects, the same bytes, exact totals."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES = [{"role": "user", "content": "What is the weather in Paris, and why?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
PLAIN = {"model": "gpt-4o-mini", "messages": MESSAGES}
ASKING = {"stream": True, "stream_options": {"include_usage": True}}
CALLS: dict[str, dict[str, Any]] = {
    "chat": PLAIN,
    "two choices": {**PLAIN, "n": 2, "max_tokens": 7},
    "stream": {**PLAIN, "stream": True},
    "stream, usage not wanted": {
        **PLAIN,
        "stream": True,
        "stream_options": {"include_usage": False},
    },
    "stream, usage wanted": {**PLAIN, **ASKING},
    "tools": {**PLAIN, "tools": TOOLS},
    "tools, stream": {**PLAIN, "tools": TOOLS, "stream": True},
    "tools, stream, usage wanted": {**PLAIN, "tools": TOOLS, **ASKING},
}
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)

every_call = pytest.mark.parametrize("fields", CALLS.values(), ids=CALLS)


@dataclass
class Clients:
    """The SDK's two clients of one base URL."""

    plain: openai.OpenAI
    asynchronous: openai.AsyncOpenAI


def sdk(base_url: str) -> Clients:
    return Clients(
        openai.OpenAI(
            base_url=base_url, api_key="sk-test", http_client=httpx.Client(trust_env=False)
        ),
        openai.AsyncOpenAI(
            base_url=base_url, api_key="sk-test", http_client=httpx.AsyncClient(trust_env=False)
        ),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def direct(provider: FakeProvider) -> AsyncIterator[Clients]:
    """The SDK before the provider itself."""
    clients = sdk(f"{provider.base_url}/v1")
    yield clients
    clients.plain.close()
    await clients.asynchronous.close()


@pytest_asyncio.fixture(loop_scope="session")
async def through(gateway: Gateway) -> AsyncIterator[Clients]:
    """The SDK before the gateway."""
    clients = sdk(f"{gateway.url}/v1")
    yield clients
    clients.plain.close()
    await clients.asynchronous.close()


@pytest.fixture(autouse=True)
def _script(provider: FakeProvider) -> None:
    """Answer with tool calls whoever offers tools."""
    with_tools = Script(completion_tokens=12, tool_call=True)
    provider.script(lambda request: with_tools if b'"tools"' in request.body else OUTPUT)


def whole(answer: Any) -> Any:
    """Return an answer, or the list of a stream's chunks, without what the provider made up."""
    found = list(answer) if isinstance(answer, Iterator) else [answer]
    return [_without_ids(each.model_dump()) for each in found]


async def whole_async(answer: Any) -> Any:
    found = [each async for each in answer] if hasattr(answer, "__aiter__") else [answer]
    return [_without_ids(each.model_dump()) for each in found]


def _without_ids(value: Any) -> Any:
    return json.loads(without_ids(json.dumps(value).encode()))


def without_ids(data: bytes) -> bytes:
    """Return what a provider said with its request's id blotted out."""
    return re.sub(rb"[0-9a-f]{24}(?![0-9a-f])", b"-" * 24, data)


def assert_exact(fields: dict[str, str], provider: FakeProvider) -> None:
    """The task's totals are what the provider says it served, to the token."""
    truth = provider.totals()
    counted = {name: int(fields.get(name) or 0) for name in _COUNTED}
    assert counted == {
        "tokens.S": truth.prompt_tokens + truth.completion_tokens,
        "calls.S": truth.calls,
        "raw.input": truth.prompt_tokens - truth.cached_tokens,
        "raw.cached_read": truth.cached_tokens,
        "raw.cache_write": 0,
        "raw.output": truth.completion_tokens,
        "raw.reasoning": truth.reasoning_tokens,
        "tokens.H": 0,
        "calls.H": 0,
        "inflight": 0,
        "estimated.calls": 0,
    }


_COUNTED = (
    "tokens.S",
    "calls.S",
    *(f"raw.{kind}" for kind in ("input", "cached_read", "cache_write", "output", "reasoning")),
    "tokens.H",
    "calls.H",
    "inflight",
    "estimated.calls",
)


@every_call
async def test_the_plain_sdk(
    gateway: Gateway,
    provider: FakeProvider,
    task: str,
    direct: Clients,
    through: Clients,
    fields: dict[str, Any],
) -> None:
    """It gets the same objects as from the provider; the totals are exact."""

    def ask(clients: Clients) -> Any:
        return whole(
            clients.plain.chat.completions.create(**fields, extra_headers={"X-Task-Id": task})
        )

    expected = await asyncio.to_thread(ask, direct)
    provider.reset()
    assert await asyncio.to_thread(ask, through) == expected
    assert_exact(await gateway.settled(task, 1), provider)


@every_call
async def test_the_async_sdk(
    gateway: Gateway,
    provider: FakeProvider,
    task: str,
    direct: Clients,
    through: Clients,
    fields: dict[str, Any],
) -> None:
    """It gets the same objects as from the provider; the totals are exact."""

    async def ask(clients: Clients) -> Any:
        create = clients.asynchronous.chat.completions.create
        return await whole_async(await create(**fields, extra_headers={"X-Task-Id": task}))

    expected = await ask(direct)
    provider.reset()
    assert await ask(through) == expected
    assert_exact(await gateway.settled(task, 1), provider)


async def test_many_calls_at_once_add_up(
    gateway: Gateway, provider: FakeProvider, task: str, through: Clients
) -> None:
    """A hundred calls of all kinds, side by side: not a token is lost or counted twice."""

    async def ask(fields: dict[str, Any]) -> None:
        create = through.asynchronous.chat.completions.create
        await whole_async(await create(**fields, extra_headers={"X-Task-Id": task}))

    kinds = [*CALLS.values()]
    await asyncio.gather(*(ask(kinds[number % len(kinds)]) for number in range(100)))
    assert_exact(await gateway.settled(task, 100), provider)


async def test_time_is_counted_once_however_many_calls_are_open(
    gateway: Gateway, provider: FakeProvider, task: str, through: Clients
) -> None:
    """A task's latency is the time in which it had a call open, not the sum over its calls."""
    headers = {"X-Task-Id": task, "X-Task-Phase": "PLAN", "X-Fake-Ttfb-Ms": "1000"}

    async def ask() -> None:
        await through.asynchronous.chat.completions.create(**PLAIN, extra_headers=headers)

    for number in (10, 20):
        await asyncio.gather(*(ask() for _ in range(10)))
        fields = await gateway.settled(task, number)
        assert number * 100 <= int(fields["latency_ms.S"]) < number * 1_000
        assert fields["PLAN.latency_ms.S"] == fields["latency_ms.S"]


# Bytes --------------------------------------------------------------------------------------------


async def body_of(client: httpx.AsyncClient, task: str, fields: dict[str, Any]) -> httpx.Response:
    """Return a whole answer, its body as it came."""
    headers = {"x-task-id": task, "authorization": "Bearer sk-test", "accept-encoding": "identity"}
    return await client.post("/v1/chat/completions", json=fields, headers=headers)


@every_call
async def test_the_bytes(
    gateway: Gateway, provider: FakeProvider, task: str, fields: dict[str, Any]
) -> None:
    """They are the provider's, but for a usage event that the client did not ask for."""
    asked = fields | (ASKING if fields.get("stream") else {})
    async with (
        httpx.AsyncClient(base_url=provider.base_url, trust_env=False) as plain,
        gateway.client() as client,
    ):
        expected = without_ids((await body_of(plain, task, asked)).content)
        answer = await body_of(client, task, fields)
    if asked != fields:
        *events, usage, done = re.split(rb"(?<=\n\n)", expected)[:-1]
        assert b'"choices":[],"usage":{' in usage
        expected = b"".join((*events, done))
    assert without_ids(answer.content) == expected


async def test_the_request_is_sent_as_it_came(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """Blanks, order, escapes and unknown members stay; only `stream_options` is put in front."""
    body = (
        b' {"messages" : [{"role":"user","content":"\\u00e9 \xf0\x9f\x98\x80"}],\n'
        b'"x": 1.50, "model":"gpt-4o-mini" }'
    )
    streamed = body.replace(b'"x"', b'"stream":true,"x"')
    async with gateway.client() as client:
        for content in (body, streamed):
            await client.post("/v1/chat/completions", content=content, headers={"x-task-id": task})
    first, second = (request.body for request in provider.requests)
    assert first == body
    assert second == streamed.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)


async def test_the_headers_are_the_providers_and_ours(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """What the provider says of itself stays, what we say is added."""
    async with gateway.client() as client:
        answer = await body_of(client, task, PLAIN)
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-tollgate-task"] == task
    received = provider.requests[0]
    assert received.header(b"authorization") == b"Bearer sk-test"
    assert received.header(b"accept-encoding") == b"identity"
    assert received.header(b"host") == provider.base_url.removeprefix("http://").encode()


# Naming the task ----------------------------------------------------------------------------------


async def test_the_task_in_the_base_url(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """For clients that cannot set headers; the prefix never reaches the provider."""
    clients = sdk(f"{gateway.url}/t/{task}/verify/v1")
    await clients.asynchronous.chat.completions.create(**PLAIN)
    await clients.asynchronous.close()
    clients.plain.close()
    fields = await gateway.settled(task, 1)
    assert (fields["phase"], fields["VERIFY.calls.S"]) == ("VERIFY", "1")
    assert provider.requests[0].target == "/v1/chat/completions"
    assert_exact(fields, provider)


async def test_the_task_in_the_baggage(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """Tracing libraries carry it; other members go on to the provider."""
    baggage = f"user=7,task.id={task},task.phase=Plan,task.complexity=large,task.importance=high"
    async with gateway.client() as client:
        await client.post("/v1/chat/completions", json=PLAIN, headers={"baggage": baggage})
    fields = await gateway.settled(task, 1)
    assert fields["phase"] == "PLAN"
    assert fields["facts"].startswith("Large|high|")
    assert provider.requests[0].header(b"baggage") == b"user=7"


async def test_the_url_is_over_the_header_and_that_over_the_baggage(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """The nearest to the configuration of one client wins; each tag by itself."""
    headers = {
        "x-task-id": "other",
        "x-task-phase": "REVIEW",
        "baggage": "task.phase=THINK,task.importance=low",
    }
    async with gateway.client() as client:
        await client.post(f"/t/{task}/-/v1/chat/completions", json=PLAIN, headers=headers)
    fields = await gateway.settled(task, 1)
    assert fields["phase"] == "REVIEW"
    assert fields["facts"].startswith("Medium|low|")
    assert not gateway.task("other")


async def test_a_child_task_is_charged_to_its_parent_too(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """Sub-agents share the budget of the task that started them."""
    async with gateway.client() as client:
        await body_of(client, task, PLAIN)
        await client.post(
            "/v1/chat/completions",
            json=PLAIN,
            headers={"x-task-id": f"{task}.sub", "x-task-parent": task, "x-task-phase": "PLAN"},
        )
    child, parent = await gateway.settled(f"{task}.sub", 1), await gateway.settled(task, 2)
    assert_exact({**parent, **{f"raw.{k}": str(_sum(parent, child, k)) for k in _RAW}}, provider)
    assert int(parent["tokens.S"]) == 2 * int(child["tokens.S"])
    assert "PLAN.calls.S" not in parent


_RAW = ("input", "cached_read", "output", "reasoning")


def _sum(one: dict[str, str], other: dict[str, str], kind: str) -> int:
    return sum(int(fields.get(f"raw.{kind}") or 0) for fields in (one, other))


async def test_an_upstream_that_refuses_the_wish_for_usage(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """Has served one good stream all the same; its tokens are counted here, and marked."""
    provider.script(lambda _: Script(fault="no_stream_options:422"))
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1",
        api_key="sk-x",
        max_retries=0,
        http_client=httpx.AsyncClient(trust_env=False),
    ) as client:
        for asked in (2, 3):
            stream = await client.chat.completions.create(
                model="gpt-4o-without-options",
                messages=MESSAGES,  # type: ignore[arg-type]
                stream=True,
                extra_headers={"X-Task-Id": task},
            )
            assert [chunk async for chunk in stream]
            assert len(provider.requests) == asked
    fields = await gateway.settled(task, 2)
    assert int(fields["tokens.S"]) > 0
    logged = await until(lambda: (found := gateway.log_events("call", task=task))[1:] and found)
    assert {line["usage"] for line in logged} == {"estimated"}
    assert len(gateway.log_events("usage_not_offered", upstream="openai")) == 1
