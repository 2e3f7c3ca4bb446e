"""Translated routes: real SDKs of one dialect in front of providers of another.

One gateway and one translator serve all tests, for importing litellm takes seconds.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "sk-test-0123456789"
HELD = "sk-held-0123456789"
SAY: Any = [{"role": "user", "content": "Say something about budgets and their limits."}]
CHAT_MODELS = {
    "anthropic": "claude-opus-4-6",
    "gemini": "gemini-2.5-pro",
    "bedrock": "anthropic.claude-sonnet-4-5-20250929-v1:0",
}
WEATHER: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}
OUTPUT = Script(completion_tokens=37, cached_tokens=3)
PATHS = {
    "anthropic": "/v1/messages",
    "gemini": ":generateContent",
    "bedrock": "/converse",
    "openai": "/v1/chat/completions",
}

every_far_side = pytest.mark.parametrize("far", CHAT_MODELS)
every_side = pytest.mark.parametrize("far", [*CHAT_MODELS, "openai"])


def settings(provider: FakeProvider) -> dict[str, str]:
    """The settings of an upstream for each provider."""
    said = {}
    for far in PATHS:
        said[f"TOLLGATE_UPSTREAMS__TO_{far.upper()}__BASE_URL"] = provider.base_url
        said[f"TOLLGATE_UPSTREAMS__TO_{far.upper()}__TRANSLATE"] = far
    held = {"base_url": provider.base_url, "translate": "anthropic", "api_key": HELD}
    held["models"] = "claude-haiku-*"
    return said | {f"TOLLGATE_UPSTREAMS__HELD__{key.upper()}": said for key, said in held.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def _translating(
    tmp_path_factory: pytest.TempPathFactory, _one_provider: FakeProvider
) -> AsyncIterator[Gateway]:
    state_dir = tmp_path_factory.mktemp("translating") / "state"
    aws = {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    started = Gateway(
        state_dir, _one_provider.base_url, mode="enforce", **settings(_one_provider), **aws
    )
    async with started as gateway:
        await until_ready(gateway)
        yield gateway


@pytest.fixture
def translating(_translating: Gateway, provider: FakeProvider) -> Gateway:
    """A gateway with an upstream for each far side, enforcing, whose translator runs."""
    return _translating


async def until_ready(gateway: Gateway) -> None:
    async with asyncio.timeout(60):
        while (await gateway.ready())["status"] != "ready":
            await asyncio.sleep(0.05)


def chat_client(gateway: Gateway, far: str, task: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=KEY,
        base_url=f"{gateway.url}/u/to_{far}/v1",
        default_headers={"x-task-id": task},
        max_retries=0,
    )


def messages_client(gateway: Gateway, task: str, far: str = "openai") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        api_key=KEY,
        base_url=f"{gateway.url}/u/to_{far}",
        default_headers={"x-task-id": task},
        max_retries=0,
    )


async def ask(gateway: Gateway, far: str, task: str, **said: Any) -> httpx.Response:
    """Ask in the dialect that is translated for the far side."""
    async with gateway.client() as client:
        return await client.post(
            target(far),
            json={**body(far), **said},
            headers={"x-task-id": task, "authorization": f"Bearer {KEY}"},
        )


def target(far: str) -> str:
    path = "v1/messages" if far == "openai" else "v1/chat/completions"
    return f"/u/to_{far}/{path}"


def body(far: str) -> dict[str, Any]:
    return {"model": CHAT_MODELS.get(far, "gpt-4o"), "messages": SAY, "max_tokens": 300}


def assert_exact(fields: dict[str, str], provider: FakeProvider) -> None:
    """The task's totals are what the provider says it served, to the token."""
    truth = provider.totals()
    expected = {
        "tokens.S": truth.prompt_tokens + truth.completion_tokens,
        "calls.S": truth.calls,
        "raw.input": truth.prompt_tokens - truth.cached_tokens,
        "raw.cached_read": truth.cached_tokens,
        "raw.output": truth.completion_tokens,
        "tokens.H": 0,
        "estimated.calls": 0,
    }
    assert {name: int(fields.get(name) or 0) for name in expected} == expected
    assert int(fields["nano_usd.S"]) > 0


@every_far_side
async def test_a_chat_call(
    translating: Gateway, provider: FakeProvider, task: str, far: str
) -> None:
    """It reaches the provider in its own dialect, with the client's credential, and is exact."""
    provider.script(lambda _: OUTPUT)
    async with chat_client(translating, far, task) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=CHAT_MODELS[far], messages=SAY
        )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 37
    assert raw.headers["x-budget-status"] == "within"
    assert_exact(await translating.settled(task, 1), provider)
    assert provider.journal[0].path.endswith(PATHS[far])
    sent = provider.requests[0]
    if far == "bedrock":
        authorization = sent.header(b"authorization") or b""
        assert authorization.startswith(b"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/")
        assert KEY.encode() not in authorization
    else:
        assert KEY.encode() in (sent.header(b"x-api-key"), sent.header(b"x-goog-api-key"))
    assert sent.header(b"x-task-id") is None


@every_far_side
@pytest.mark.parametrize("asks", [True, False], ids=["asks for usage", "does not"])
async def test_a_chat_stream(
    translating: Gateway, provider: FakeProvider, task: str, far: str, asks: bool
) -> None:
    """Usage is metered in any case, and shown to who asked for it."""
    provider.script(lambda _: OUTPUT)
    options: Any = {"stream_options": {"include_usage": True}} if asks else {}
    async with chat_client(translating, far, task) as client:
        stream = await client.chat.completions.create(
            model=CHAT_MODELS[far], messages=SAY, stream=True, **options
        )
        chunks = [chunk async for chunk in stream]
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    usages = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert usages == ([37] if asks else [])
    assert_exact(await translating.settled(task, 1), provider)


@every_far_side
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_chat_tool_call(
    translating: Gateway, provider: FakeProvider, task: str, far: str, stream: bool
) -> None:
    """It comes back as OpenAI words it."""
    if far == "gemini" and stream:
        provider.script(lambda _: Script(completion_tokens=3))  # its tool calls come whole
    else:
        provider.script(lambda _: Script(completion_tokens=6, tool_call=True))
    async with chat_client(translating, far, task) as client:
        asked: Any = {"model": CHAT_MODELS[far], "messages": SAY, "tools": [CHAT_TOOL]}
        if stream:
            chunks = [c async for c in await client.chat.completions.create(**asked, stream=True)]
            deltas = [c.choices[0].delta.tool_calls or [] for c in chunks if c.choices]
            functions = [call.function for calls in deltas for call in calls if call.function]
            names = [function.name for function in functions if function.name]
            arguments = "".join(function.arguments or "" for function in functions)
            reason = [c.choices[0].finish_reason for c in chunks if c.choices][-1]
        else:
            choice = (await client.chat.completions.create(**asked)).choices[0]
            function = choice.message.tool_calls[0].function
            names, arguments, reason = [function.name], function.arguments, choice.finish_reason
    if far != "gemini" or not stream:
        assert names == ["get_weather"]
        assert list(json.loads(arguments)) == ["city"]
        assert reason == "tool_calls"
    assert b"get_weather" in provider.requests[0].body
    assert_exact(await translating.settled(task, 1), provider)


async def test_a_call_by_model_with_the_gateways_key(
    translating: Gateway, provider: FakeProvider, task: str
) -> None:
    """A plain `/v1` URL and a model's name are enough; a large header is no obstacle."""
    provider.script(lambda _: OUTPUT)
    said = {**body("anthropic"), "model": "claude-haiku-4-5"}
    headers = {"x-task-id": task, "authorization": f"Bearer {KEY}", "x-large": "x" * 20_000}
    async with translating.client() as client:
        answer = await client.post("/v1/chat/completions", json=said, headers=headers)
    assert answer.status_code == 200
    assert_exact(await translating.settled(task, 1), provider)
    assert provider.requests[0].header(b"x-api-key") == HELD.encode()
    assert provider.requests[0].header(b"x-large") is None


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool call"])
async def test_a_message_to_openai(
    translating: Gateway, provider: FakeProvider, task: str, tool: bool
) -> None:
    """An Anthropic client reaches OpenAI; totals are the provider's."""
    provider.script(lambda _: Script(completion_tokens=37, cached_tokens=3, tool_call=tool))
    async with messages_client(translating, task) as client:
        answer = await client.messages.create(
            model="gpt-4o", max_tokens=300, messages=SAY, tools=[TOOL] if tool else []
        )
    assert answer.content[0].type == ("tool_use" if tool else "text")
    assert answer.stop_reason == ("tool_use" if tool else "end_turn")
    assert answer.usage.output_tokens == 37
    assert_exact(await translating.settled(task, 1), provider)
    assert provider.journal[0].path == PATHS["openai"]


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool call"])
async def test_a_message_stream_to_openai(
    translating: Gateway, provider: FakeProvider, task: str, tool: bool
) -> None:
    """Its events are Anthropic's, in their order."""
    provider.script(lambda _: Script(completion_tokens=37, cached_tokens=3, tool_call=tool))
    async with messages_client(translating, task) as client:
        async with client.messages.stream(
            model="gpt-4o", max_tokens=300, messages=SAY, tools=[TOOL] if tool else []
        ) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert message.content[-1].type == ("tool_use" if tool else "text")
    assert message.usage.output_tokens == 37
    assert_exact(await translating.settled(task, 1), provider)


@pytest.mark.parametrize("far", ["anthropic", "gemini", "bedrock"])
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_message_to_others(
    translating: Gateway, provider: FakeProvider, task: str, far: str, stream: bool
) -> None:
    """An Anthropic client reaches the others too, Anthropic itself included."""
    provider.script(lambda _: OUTPUT)
    async with messages_client(translating, task, far) as client:
        asked: Any = {"model": CHAT_MODELS[far], "max_tokens": 300, "messages": SAY}
        if stream:
            async with client.messages.stream(**asked, tools=[TOOL]) as events:
                message = await events.get_final_message()
        else:
            message = await client.messages.create(**asked, tools=[TOOL])
    assert message.content[0].type == "text"
    assert message.usage.output_tokens == 37
    assert_exact(await translating.settled(task, 1), provider)
    assert (
        provider.journal[0]
        .path.rpartition(":")[2]
        .startswith({"gemini": "streamGen" if stream else "generateC"}.get(far, ""))
    )


@every_side
async def test_nothing_passes_a_spent_budget(
    translating: Gateway, provider: FakeProvider, task: str, far: str
) -> None:
    """One request, none upstream, worded as on any route."""
    provider.script(lambda _: Script(prompt_tokens=60_000))
    await ask(translating, far, task)
    await translating.settled(task, 1)
    provider.reset()
    answer = await ask(translating, far, task)
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("billing_error", "runaway_task")
    assert provider.journal == []


@every_side
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
async def test_an_error_passes_and_costs_nothing(
    translating: Gateway, provider: FakeProvider, task: str, far: str, status: int, stream: bool
) -> None:
    """One request with the provider's own status and words, no retry of litellm's, no key."""
    provider.script(lambda _: Script(fault=f"status:{status}"))
    answer = await ask(translating, far, task, stream=stream)
    assert answer.status_code == status
    assert len(provider.journal) == 1
    message = answer.json()["error"]["message"]
    assert "litellm" not in answer.text.lower()
    assert KEY not in answer.text
    assert not re.search(r"\w+(Error|Exception)\b", message)
    if status in (429, 529):
        assert answer.headers["retry-after"] == "1"
    fields = await translating.settled(task, 1)
    assert (int(fields.get("tokens.S") or 0), fields["tokens.H"]) == (0, "0")


@every_side
async def test_a_stream_that_the_client_leaves_ends_as_its_provider_bills(
    translating: Gateway, provider: FakeProvider, task: str, far: str
) -> None:
    """The far call is cancelled where that saves money, and read to its end where it does not."""
    provider.script(lambda _: Script(completion_tokens=150, chunk_delay_ms=10))
    headers = {"x-task-id": task, "authorization": f"Bearer {KEY}"}
    said = {**body(far), "stream": True}
    async with translating.client() as client:
        async with client.stream("POST", target(far), json=said, headers=headers) as answer:
            async for _ in answer.aiter_bytes():
                if provider.journal[0].completion_tokens >= 20:
                    break
    await until(lambda: provider.journal[0].aborted or provider.journal[0].finished)
    goes_on = far in ("gemini", "bedrock")
    assert provider.journal[0].finished is goes_on
    fields = await translating.settled(task, 1)
    truth = provider.totals()
    total = truth.prompt_tokens + truth.completion_tokens
    assert fields["tokens.H"] == "0"
    if goes_on:
        assert int(fields["tokens.S"]) == total
    else:
        assert int(fields["tokens.S"]) == pytest.approx(total, rel=0.4)


@every_side
async def test_a_stream_that_the_provider_cuts_says_so(
    translating: Gateway, provider: FakeProvider, task: str, far: str
) -> None:
    """Its last event is an error, in the client's dialect; what was seen is charged."""
    provider.script(lambda _: Script(completion_tokens=100, fault="cut:40"))
    answer = await ask(translating, far, task, stream=True)
    last = answer.text.rstrip().rpartition("\n\n")[2]
    assert "error" in json.loads(last.partition("data:")[2])
    assert "litellm" not in answer.text.lower()
    fields = await translating.settled(task, 1)
    assert fields["tokens.H"] == "0"
    assert int(fields["tokens.S"]) > 20


@every_side
async def test_a_stream_without_usage_is_estimated(
    translating: Gateway, provider: FakeProvider, task: str, far: str
) -> None:
    """What litellm would count itself is not taken for the provider's."""
    provider.script(lambda _: Script(completion_tokens=60, fault="missing_usage"))
    await ask(translating, far, task, stream=True)
    fields = await translating.settled(task, 1)
    truth = provider.totals()
    assert fields["estimated.calls"] == "1"
    total = truth.prompt_tokens + truth.completion_tokens
    assert int(fields["tokens.S"]) == pytest.approx(total, rel=0.35)


async def test_an_answer_that_cannot_be_translated_is_charged_its_hold(
    translating: Gateway, provider: FakeProvider, task: str
) -> None:
    """It may be billed: the client hears that the provider broke off."""
    provider.script(lambda _: Script(completion_tokens=60, fault="missing_usage"))
    answer = await ask(translating, "bedrock", task)
    assert answer.status_code == 502
    fields = await translating.settled(task, 1)
    assert int(fields["tokens.S"]) >= 300
    await until(lambda: translating.log_events("translation_failed", upstream="to_bedrock"))


async def test_a_client_cannot_reach_elsewhere(
    translating: Gateway, provider: FakeProvider, task: str
) -> None:
    """Neither litellm's own arguments nor URLs in messages are passed on; nothing is sent."""
    elsewhere = "http://127.0.0.1:9/"
    said = await ask(translating, "anthropic", task, api_base=elsewhere)
    assert (said.status_code, said.json()["error"]["param"]) == (400, "api_base")
    image = {"type": "image_url", "image_url": {"url": elsewhere}}
    messages = [{"role": "user", "content": [image]}]
    said = await ask(translating, "gemini", task, messages=messages)
    assert (said.status_code, said.json()["error"]["param"]) == (400, "messages")
    async with translating.client() as client:
        said = await client.post(
            target("anthropic"), json=body("anthropic"), headers={"x-task-id": task}
        )
    assert said.status_code == 401
    assert provider.journal == []


async def test_litellm_is_in_the_translator_only(translating: Gateway) -> None:
    """Workers have none of it mapped; its socket is nobody else's; it connects to the provider."""
    children = translating.children()
    (translator,) = [pid for pid, line in children.items() if "gateway.translator_app" in line]
    assert "/jiter/" in Path(f"/proc/{translator}/maps").read_text()
    for worker in translating.worker_pids():
        mapped = Path(f"/proc/{worker}/maps").read_text()
        assert "/jiter/" not in mapped
        assert "/tiktoken/" not in mapped
    socket = translating.state_dir / "translator.sock"
    if socket.exists():
        assert socket.stat().st_mode & 0o077 == 0


async def test_without_its_translator_a_gateway_is_degraded(
    translating: Gateway, provider: FakeProvider, task: str
) -> None:
    """Calls that need it are answered 502 and charged nothing; it comes back by itself."""
    children = translating.children()
    (pid,) = [pid for pid, line in children.items() if "gateway.translator_app" in line]
    os.kill(pid, 9)
    async with asyncio.timeout(60):
        while (found := await translating.ready())["status"] != "degraded":
            await asyncio.sleep(0.01)
    assert found["reasons"] == [
        "translator: not running; calls to translated upstreams are answered 502"
    ]
    answer = await ask(translating, "anthropic", task)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    await until_ready(translating)
    with suppress(httpx.HTTPError):
        assert (await ask(translating, "anthropic", task)).status_code == 200
    assert_exact(await translating.settled(task, 1), provider)
    await until(lambda: translating.log_events("translator_died"))
