"""Calls that policies shape, through real sockets, a real store and the real SDKs.

GW-15: the output is clamped, a cheaper model stands in. GW-16: streams end when their task is over.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio
import redis
import websockets
from google import genai
from google.genai import errors, types

from gateway.core.configuration import Rules, UpstreamSettings
from gateway.core.mid_stream_stop import MidStreamStopPolicy
from gateway.core.model_downgrade import ModelDowngradePolicy, SoftLine
from gateway.core.output_clamp import OutputClampPolicy
from gateway.core.policy import Mode, PolicySet, ReserveKind
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.usage import UsageSource
from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider, Received, Script
from tests.e2e.in_process import ENFORCING, OBSERVING, Bench, bench, rules, worker_serving
from tests.server.client import PATIENCE_S, Reply

DEAR, CHEAP = ModelPrice(1_000_000_000, 8_000_000_000, 0, 0), ModelPrice(100_000_000, 0, 0, 0)
PRICES = PriceTable({"big": DEAR, "mini": CHEAP})
DOWNGRADE = ModelDowngradePolicy(
    mode=Mode.ENFORCE, soft_line=SoftLine(50), models=(("big*", "mini"),)
)
STOP = MidStreamStopPolicy("stop", Mode.ENFORCE)
CLAMP = OutputClampPolicy(mode=Mode.ENFORCE, min_tokens=64)
MESSAGE: Any = [{"role": "user", "content": "hello"}]
ASKED = {"model": "big", "messages": MESSAGE}
GEMINI = "/v1beta/models/{}:generateContent"
LIMIT = 23_400

OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


@pytest.fixture
def open_bench(valkey: str, provider: FakeProvider, tenant: str) -> OpenBench:
    """Opens benches whose upstreams of every name are the provider."""

    def open_one(**policies: Any) -> AbstractAsyncContextManager[Bench]:
        stop_loss = policies.pop("stop_loss", replace(ENFORCING, enforce_from=None))
        kinds = {name: (policy,) for name, policy in policies.items()}
        in_force: Rules = replace(
            rules(stop_loss),
            policies=PolicySet((stop_loss,), "hash", unpriced_model=(), **kinds),
            prices=PRICES,
        )
        names = ("anthropic", "gemini")
        others = {name: UpstreamSettings(provider.base_url, name) for name in names}
        return bench(valkey, provider.base_url, tenant, in_force, others=others)

    return open_one


def spend(serving: Bench, tokens: int, task: str = "T") -> None:
    """Put so much on the task's account."""
    key = serving.store.keys(serving.tenant).task(task)
    serving.client_of_store.hset(key, "tokens.S", tokens)


async def ask(serving: Bench, path: str, body: bytes | dict[str, Any], *lines: str) -> Reply:
    """Make one call of task T in phase PLAN, and wait for its record."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: t",
        "X-Task-Id: T",
        "X-Task-Phase: PLAN",
        *lines,
        f"Content-Length: {len(data)}",
    ]
    calls = len(serving.told.calls)
    async with serving.client() as client:
        reply = await client.ask("\r\n".join([*head, "", ""]).encode() + data)
    await serving.recorded(calls + 1)
    return reply


def header(reply: Reply, name: str) -> str | None:
    return reply.headers.get(name)


# Clamp --------------------------------------------------------------------------------------------

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
CLAMPED = {
    "chat, a limit": (CHAT, b'{"model":"big", "max_tokens": 99999 ,"x":1.0}', b"99999"),
    "completions": ("/v1/completions", b'{"model":"big","max_tokens":99999,"prompt":""}', b"99999"),
    "responses": (RESPONSES, b'{"model":"big","input":"", "max_output_tokens":99999}', b"99999"),
    "messages": (MESSAGES, b'{"model":"big","max_tokens":99999,"messages":[]}', b"99999"),
    "gemini": (
        GEMINI.format("big"),
        b'{"contents":[],"generationConfig":{"topK":1,"maxOutputTokens":99999}}',
        b"99999",
    ),
    "ollama": (
        "/u/openai/api/chat",
        b'{"model":"big","options":{"num_predict":99999},"x":1}',
        b"99999",
    ),
}
INSERTED = {
    "chat": (CHAT, b'{"model":"big"}', b'{"max_completion_tokens":%d,"model":"big"}'),
    "responses": (RESPONSES, b'{"model":"big"}', b'{"max_output_tokens":%d,"model":"big"}'),
    "gemini": (
        GEMINI.format("big"),
        b'{"contents":[]}',
        b'{"generationConfig":{"maxOutputTokens":%d},"contents":[]}',
    ),
}


async def test_GW15_the_output_is_clamped_to_what_is_affordable(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """USE-4. In each dialect the limit's bytes change and no other; a header says so."""
    async with open_bench(output_clamp=CLAMP) as serving:
        await ask(serving, CHAT, {"model": "big", "messages": [], "max_tokens": 10})
        assert provider.requests[-1].body == b'{"model": "big", "messages": [], "max_tokens": 10}'
        spend(serving, 28_080 - 2_000)
        for path, body, limit in CLAMPED.values():
            reply = await ask(serving, path, body, *_version(path))
            clamp = header(reply, "x-tollgate-clamp")
            assert clamp is not None, path
            assert 1_900 < int(clamp) < 2_000
            assert provider.requests[-1].body == body.replace(limit, clamp.encode())
            spend(serving, 28_080 - 2_000)
        for path, body, expected in INSERTED.values():
            reply = await ask(serving, path, body)
            assert provider.requests[-1].body == expected % int(
                header(reply, "x-tollgate-clamp") or 0
            )
            spend(serving, 28_080 - 2_000)


_SPEECH = {"model": "gpt-4o-mini-tts", "input": "hello", "voice": "alloy"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses/compact", {"model": "big", "input": "hello"}),
        ("/v1/audio/speech", _SPEECH),
        ("/v1/audio/transcriptions", {"model": "gpt-4o-transcribe"}),
    ],
)
async def test_what_states_no_ceiling_is_let_through_whole_or_not_at_all(
    open_bench: OpenBench, provider: FakeProvider, path: str, body: dict[str, Any]
) -> None:
    """Where nothing may go over, no clamp is taken for granted that cannot be put in."""
    worst = replace(ENFORCING, enforce_from=None, reserve=ReserveKind.WORST_CASE)
    async with open_bench(stop_loss=worst) as serving:
        reply = await ask(serving, path, body)
        assert (reply.status, reply.code) == (400, "task_budget_exceeded")
        assert not provider.requests
        plenty = dict.fromkeys(("tokens.C", "tokens.R", "PLAN.tokens.C"), 10_000_000)
        key = serving.store.keys(serving.tenant).task("T")
        serving.client_of_store.hset(key, mapping=plenty)
        reply = await ask(serving, path, body)
        assert header(reply, "x-tollgate-clamp") is None
        assert len(provider.requests) == 1


def _version(path: str) -> list[str]:
    return ["anthropic-version: 2023-06-01"] if path == MESSAGES else []


async def test_GW15_a_clamp_leaves_a_minimum_and_refuses_nothing(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """Never below what the policy leaves, or what a request needs beside its thinking."""
    thinking = {"model": "big", "messages": [], "max_tokens": 9_999}
    thinking["thinking"] = {"type": "enabled", "budget_tokens": 1_500}
    async with open_bench(output_clamp=CLAMP) as serving:
        await ask(serving, CHAT, ASKED)
        spend(serving, 28_080)
        reply = await ask(serving, CHAT, {**ASKED, "n": 2})
        assert (reply.status, header(reply, "x-tollgate-clamp")) == (200, "64")
        assert json.loads(provider.requests[-1].body)["max_completion_tokens"] == 32
        spend(serving, 28_080)
        reply = await ask(serving, MESSAGES, thinking, *_version(MESSAGES))
        assert header(reply, "x-tollgate-clamp") == "1501"
        embedding = {"model": "big", "input": "x"}
        spend(serving, 28_080)
        assert header(await ask(serving, "/v1/embeddings", embedding), "x-tollgate-clamp") is None


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.OFF])
async def test_a_clamp_that_does_not_enforce_changes_nothing(
    open_bench: OpenBench, provider: FakeProvider, mode: Mode
) -> None:
    """No byte, no header."""
    async with open_bench(output_clamp=replace(CLAMP, mode=mode)) as serving:
        await ask(serving, CHAT, ASKED)
        spend(serving, 28_080)
        reply = await ask(serving, CHAT, b'{"model":"big"}')
        assert header(reply, "x-tollgate-clamp") is None
        assert provider.requests[-1].body == b'{"model":"big"}'


# Downgrade ----------------------------------------------------------------------------------------


async def test_GW15_a_cheaper_model_from_the_soft_line_on(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """Only the name changes; the call is held and charged at the other model's price."""
    body = b'{"messages":[{"role":"user","content":"model"}], "model" : "big","max_tokens":100}'
    async with open_bench(model_downgrade=DOWNGRADE) as serving:
        before = await ask(serving, CHAT, body)
        assert header(before, "x-tollgate-model") is None
        assert provider.requests[-1].body == body
        assert serving.told.calls[-1].nano_usd == 10 * 1_000 + 5 * 8_000
        spend(serving, LIMIT // 2)
        evals = _evals(serving)
        after = await ask(serving, CHAT, body)
        assert _evals(serving) - evals == 3  # asked twice, settled once
        assert header(after, "x-tollgate-model") == "mini"
        assert provider.requests[-1].body == body.replace(b'"model" : "big"', b'"model" : "mini"')
        assert serving.told.calls[-1].nano_usd == 10 * 100
        spend(serving, LIMIT // 2)
        assert (
            header(await ask(serving, CHAT, {**ASKED, "model": "o3"}), "x-tollgate-model") is None
        )


def _evals(serving: Bench) -> int:
    return int(serving.client_of_store.info("commandstats")["cmdstat_evalsha"]["calls"])


async def test_GW15_the_ledger_has_the_model_asked_and_the_one_served(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """By the provider's word, else the one that was put in."""
    async with open_bench(model_downgrade=DOWNGRADE) as serving:
        await ask(serving, CHAT, ASKED)
        spend(serving, LIMIT)
        await ask(serving, CHAT, ASKED)
        stream = serving.store.keys(serving.tenant).ledger
        ((_, entry),) = serving.client_of_store.xrevrange(stream, count=1)
        about, outcome = json.loads(entry["a"]), json.loads(entry["o"])
        assert about[0] == "big"
        assert "mini" in outcome


async def test_GW15_a_cheaper_model_in_paths(open_bench: OpenBench, provider: FakeProvider) -> None:
    """Gemini's and Azure's; the body stays as it is."""
    async with open_bench(model_downgrade=DOWNGRADE) as serving:
        await ask(serving, CHAT, ASKED)
        spend(serving, LIMIT)
        body = b'{"contents":[{"parts":[{"text":"big"}]}]}'
        await ask(serving, GEMINI.format("big-pro") + "?alt=big", body)
        assert provider.requests[-1].target == GEMINI.format("mini") + "?alt=big"
        assert provider.requests[-1].body == body
        azure = "/openai/deployments/{}/chat/completions?api-version=1"
        await ask(serving, "/u/openai" + azure.format("big"), b'{"messages":[]}')
        assert provider.requests[-1].target == azure.format("mini")
        assert provider.requests[-1].body == b'{"messages":[]}'


async def test_GW15_a_cheaper_model_on_a_socket(
    valkey: str, provider: FakeProvider, tenant: str, redis_client: redis.Redis
) -> None:
    """Only the name changes in the event, from the soft line on, and only if the event has one."""
    policies = PolicySet((OBSERVING,), "hash", unpriced_model=(), model_downgrade=(DOWNGRADE,))
    in_force = replace(rules(OBSERVING), policies=policies, prices=PRICES)
    event = {"type": "response.create", "input": "model", "model": "big", "stream_id": "a"}

    def text(said: dict[str, Any]) -> str:
        return json.dumps(said, separators=(",", ":"))  # as the provider notes it

    async def answered(socket: websockets.ClientConnection, said: dict[str, Any]) -> bytes:
        await socket.send(text(said))
        async with asyncio.timeout(PATIENCE_S):
            while json.loads(await socket.recv())["type"] != "response.completed":
                pass
        return heard.pop()

    def script(request: Received) -> Script:
        heard.append(request.body)
        return Script(prompt_tokens=10, completion_tokens=5)

    heard: list[bytes] = []
    provider.script(script)
    async with worker_serving(valkey, provider.base_url, tenant, in_force) as worker:
        url = f"ws://127.0.0.1:{worker.port}/t/T/PLAN{RESPONSES}"
        async with websockets.connect(url, proxy=None) as socket:
            assert await answered(socket, event) == text(event).encode()
            redis_client.hset(TenantKeys(tenant).task("T"), "tokens.S", LIMIT // 2 + 1)
            cheaper = text(event).encode().replace(b'"big"', b'"mini"')
            assert await answered(socket, event) == cheaper
            unnamed = {name: said for name, said in event.items() if name != "model"}
            assert await answered(socket, unnamed) == text(unnamed).encode()


async def test_a_downgrade_that_observes_changes_nothing(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """And asks the store nothing more."""
    async with open_bench(model_downgrade=replace(DOWNGRADE, mode=Mode.OBSERVE)) as serving:
        await ask(serving, CHAT, ASKED)
        spend(serving, LIMIT)
        reply = await ask(serving, CHAT, b'{"model":"big"}')
        assert header(reply, "x-tollgate-model") is None
        assert provider.requests[-1].body == b'{"model":"big"}'


# Streams that end ---------------------------------------------------------------------------------

HANGING = Script(prompt_tokens=10, completion_tokens=50, fault="hang:3")
TASK = {"X-Task-Id": "T", "X-Task-Phase": "PLAN"}


def _openai(url: str) -> openai.AsyncOpenAI:
    client = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", default_headers=TASK, http_client=client
    )


async def _chat(url: str) -> str:
    client = _openai(url)
    async with client:
        stream = await client.chat.completions.create(model="big", messages=MESSAGE, stream=True)
        with pytest.raises(openai.APIError) as raised:
            async for _ in stream:
                pass
        assert raised.value.code == "task_killed"
        return raised.value.message


async def _completions(url: str) -> str:
    client = _openai(url)
    async with client:
        stream = await client.completions.create(
            model="big", prompt="x", stream=True, max_tokens=90
        )
        with pytest.raises(openai.APIError) as raised:
            async for _ in stream:
                pass
        return raised.value.message


async def _responses(url: str) -> str:
    client = _openai(url)
    async with client:
        stream = await client.responses.create(model="big", input="x", stream=True)
        events = [event async for event in stream]
        last: Any = events[-1]
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert last.response.id == events[0].response.id  # type: ignore[union-attr]
        assert last.response.error.code == "insufficient_quota"
        return str(last.response.error.message)


async def _messages(url: str) -> str:
    client = anthropic.AsyncAnthropic(
        base_url=url,
        api_key="k",
        default_headers=TASK,
        http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
    )
    async with client:
        stream = await client.messages.create(
            model="big", max_tokens=90, messages=MESSAGE, stream=True
        )
        with pytest.raises(anthropic.APIStatusError) as raised:
            async for _ in stream:
                pass
        assert raised.value.type == "billing_error"  # type: ignore[attr-defined]
        return raised.value.message


async def _ollama(url: str) -> str:
    lines = []
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        body = {"model": "big", "messages": MESSAGE}
        path = f"{url}/u/openai/api/chat"
        async with client.stream("POST", path, json=body, headers=TASK) as answer:
            lines = [json.loads(line) async for line in answer.aiter_lines()]
    assert all("message" in line for line in lines[:-1])
    return str(lines[-1]["error"])


def _gemini_now(url: str) -> str:
    options = types.HttpOptions(base_url=url, headers=TASK, client_args={"trust_env": False})
    client = genai.Client(api_key="k", http_options=options)
    with pytest.raises(errors.APIError) as raised:
        list(client.models.generate_content_stream(model="big", contents="x"))
    assert (raised.value.code, raised.value.status) == (400, "FAILED_PRECONDITION")
    return str(raised.value.message)


async def _gemini(url: str) -> str:
    return await asyncio.to_thread(_gemini_now, url)


@pytest.mark.parametrize("client", [_chat, _completions, _responses, _messages, _gemini, _ollama])
async def test_GW16_a_stream_ends_when_its_task_is_over(
    open_bench: OpenBench, provider: FakeProvider, client: Callable[[str], Any]
) -> None:
    """A real client understands why; the provider is cancelled; what was seen is charged."""
    provider.script(lambda _: HANGING)
    async with open_bench(mid_stream_stop=STOP) as serving:
        asking = asyncio.ensure_future(client(f"http://127.0.0.1:{serving.port}"))
        await until_held(serving, asking)
        await serving.lifecycle.metering.heartbeat()  # within its line: nothing happens
        key = serving.store.keys(serving.tenant).task("T")
        serving.client_of_store.hset(key, "state", "killed")
        await heartbeat_until(serving, asking)
        assert "Task T was killed by an operator" in await asking
        await serving.recorded(1)
        (record,) = serving.told.calls
        assert (record.status, record.code, record.source) == (
            200,
            "task_killed",
            UsageSource.PROVIDER if client is _gemini else UsageSource.ESTIMATED,
        )
        assert 0 < record.usage.output_total < 50
        assert serving.task("T")["tokens.H"] == "0"
        assert int(serving.task("T")["tokens.S"]) == record.tokens
        (event,) = serving.events("stream_stopped")
        assert (event["task"], event["code"]) == ("T", "task_killed")
        await provider.until(lambda: provider.journal[-1].aborted, PATIENCE_S)


async def until_held(serving: Bench, asking: asyncio.Future[Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while serving.task("T").get("tokens.H", "0") == "0" and not asking.done():
            await asyncio.sleep(0.005)


async def heartbeat_until(serving: Bench, asking: asyncio.Future[Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not asking.done():
            await serving.lifecycle.metering.heartbeat()
            await asyncio.sleep(0.01)


STREAMS = {
    "over": {"mid_stream_stop": STOP},
    "off": {},
    "observed": {"mid_stream_stop": replace(STOP, mode=Mode.OBSERVE)},
    "observing stop-loss": {"mid_stream_stop": STOP, "stop_loss": OBSERVING},
}


@pytest.mark.parametrize(("case", "policies"), STREAMS.items(), ids=STREAMS)
async def test_GW16_EC6_only_where_a_policy_says_so(
    open_bench: OpenBench, provider: FakeProvider, case: str, policies: dict[str, Any]
) -> None:
    """Over its line: without the policy, or where nothing is refused, an answer is never cut."""
    slow = Script(prompt_tokens=10, completion_tokens=40, chunk_delay_ms=25)
    provider.script(lambda _: slow)
    async with open_bench(**policies) as serving:
        asking = asyncio.ensure_future(ask(serving, CHAT, {**ASKED, "stream": True}))
        await until_held(serving, asking)
        spend(serving, 30_000)
        await heartbeat_until(serving, asking)
        reply = await asking
        is_cut = case == "over"
        assert (b'"code":"task_budget_exceeded"' in reply.body) is is_cut
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert serving.told.calls[0].code == ("task_budget_exceeded" if is_cut else "")


async def test_GW16_a_json_answer_is_not_cut(open_bench: OpenBench, provider: FakeProvider) -> None:
    """It is billed in full."""
    provider.script(lambda _: Script(prompt_tokens=10, completion_tokens=5, ttfb_ms=300))
    async with open_bench(mid_stream_stop=STOP) as serving:
        asking = asyncio.ensure_future(ask(serving, CHAT, ASKED))
        await until_held(serving, asking)
        spend(serving, 30_000)
        await heartbeat_until(serving, asking)
        assert (await asking).status == 200
        assert serving.told.calls[0].usage.output_total == 5
