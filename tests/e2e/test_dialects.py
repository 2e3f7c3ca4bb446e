"""Every dialect through real sockets: totals are the provider's journal, whatever happens.

Calls and streams, whole, cut from either side, answered by errors; observing and enforcing.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gateway.core.model_text import text_rule
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAY = "Say something about reading each call once, then something about budgets and their limits."
ASKED = [{"role": "user", "content": SAY}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": SAY}]}]}
VERSION = {"anthropic-version": "2023-06-01"}


@dataclass(frozen=True)
class Way:
    """One way to call a model: where to, and with what; `streams` where the target says so."""

    target: str
    body: dict[str, Any]
    is_stream: bool = False

    @property
    def knows_usage_early(self) -> bool:
        """Whether every chunk says what was used so far."""
        return "streamGenerateContent" in self.target

    @property
    def asks_for_usage(self) -> bool:
        """Whether the gateway has to ask for usage, and hides the event that brings it."""
        return self.is_stream and self.target.endswith("/completions")


MESSAGES = {"model": "claude-sonnet-4-5", "max_tokens": 300, "messages": ASKED}
RESPONSE = {"model": "gpt-5.6", "input": SAY, "max_output_tokens": 300}
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": SAY, "max_tokens": 300}
CHAT = {"model": "gpt-4o-mini", "messages": ASKED}
GEMINI = "/v1beta/models/gemini-2.5-pro:"
JSON_WAYS = {
    "messages": Way("/v1/messages", MESSAGES),
    "responses": Way("/v1/responses", RESPONSE),
    "compaction": Way("/v1/responses/compact", RESPONSE),
    "completions": Way("/v1/completions", COMPLETION),
    "gemini": Way(f"{GEMINI}generateContent", PARTS),
    "gemini as openai": Way("/v1beta/openai/chat/completions", CHAT),
    "azure": Way("/u/openai/openai/deployments/mine/chat/completions?api-version=1", CHAT),
    "azure responses": Way("/u/openai/openai/v1/responses", RESPONSE),
}
STREAM_WAYS = {
    "messages": Way("/v1/messages", {**MESSAGES, "stream": True}, True),
    "responses": Way("/v1/responses", {**RESPONSE, "stream": True}, True),
    "completions": Way("/v1/completions", {**COMPLETION, "stream": True}, True),
    "gemini": Way(f"{GEMINI}streamGenerateContent?alt=sse", PARTS, True),
    "gemini as openai": Way("/v1beta/openai/chat/completions", {**CHAT, "stream": True}, True),
}
ARRAY = Way(f"{GEMINI}streamGenerateContent", PARTS)
WHOLE = {**JSON_WAYS, **{f"{name}, stream": way for name, way in STREAM_WAYS.items()}}
SAYING_ERRORS = dict(WHOLE)  # an array that breaks off with an error is no JSON
WHOLE["gemini, array"] = ARRAY
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)

every_way = pytest.mark.parametrize("way", WHOLE.values(), ids=WHOLE)
every_json_way = pytest.mark.parametrize("way", JSON_WAYS.values(), ids=JSON_WAYS)
every_stream_way = pytest.mark.parametrize("way", STREAM_WAYS.values(), ids=STREAM_WAYS)


@pytest.fixture(params=["observing", "enforcing"])
def running(request: pytest.FixtureRequest, gateway: Gateway, enforcing: Gateway) -> Gateway:
    """The gateway in either mode."""
    return gateway if request.param == "observing" else enforcing


async def ask(gateway: Gateway, way: Way, task: str) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post(way.target, json=way.body, headers={"x-task-id": task, **VERSION})


def used(fields: dict[str, str]) -> int:
    return int(fields["tokens.S"])


def assert_exact(fields: dict[str, str], provider: FakeProvider) -> None:
    """The task's totals are what the provider says it served, to the token."""
    truth = provider.totals()
    expected = {
        "tokens.S": truth.prompt_tokens + truth.completion_tokens,
        "calls.S": truth.calls,
        "raw.input": truth.prompt_tokens - truth.cached_tokens,
        "raw.cached_read": truth.cached_tokens,
        "raw.output": truth.completion_tokens,
        "raw.reasoning": truth.reasoning_tokens,
        "tokens.H": 0,
        "estimated.calls": 0,
    }
    assert {name: int(fields.get(name) or 0) for name in expected} == expected


@every_way
async def test_totals_are_the_journals(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """What is sent is what the client said; usage that only we asked for is hidden."""
    provider.script(lambda _: OUTPUT)
    answer = await ask(running, way, task)
    assert answer.status_code == 200
    assert_exact(await running.settled(task, 1), provider)
    assert provider.totals().calls == 1
    sent = json.loads(provider.requests[0].body)
    assert {**way.body, "stream_options": 0} == {**sent, "stream_options": 0}
    if way.asks_for_usage:
        assert b'"usage":{' not in answer.content


@every_way
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_costs_nothing(
    running: Gateway, provider: FakeProvider, task: str, way: Way, status: int
) -> None:
    """It passes as it is."""
    provider.script(lambda _: Script(fault=f"status:{status}"))
    assert (await ask(running, way, task)).status_code == status
    fields = await running.settled(task, 1)
    assert (used(fields), fields["tokens.H"]) == (0, "0")


@pytest.mark.parametrize("way", SAYING_ERRORS.values(), ids=SAYING_ERRORS)
async def test_an_error_inside_200_costs_nothing(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """Nothing was generated; what a message says of its input before it is reported input."""
    provider.script(lambda _: Script(fault="error_event:0"))
    with suppress(httpx.RemoteProtocolError):
        await ask(running, way, task)
    fields = await running.settled(task, 1)
    assert fields["tokens.H"] == "0"
    knows_input = way.is_stream and way.target == "/v1/messages"
    assert used(fields) == (provider.totals().prompt_tokens + 1 if knows_input else 0)


@every_json_way
async def test_an_answer_without_usage_is_estimated(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """From its text, within a quarter of the truth, times what the model's tokenizer makes of it.

    The fake provider counts alike for every model.
    """
    provider.script(lambda _: Script(completion_tokens=60, fault="missing_usage"))
    await ask(running, way, task)
    fields = await running.settled(task, 1)
    truth = provider.totals()
    assert fields["estimated.calls"] == "1"
    tokens = text_rule(way.body.get("model", "")).scaled(
        truth.prompt_tokens + truth.completion_tokens
    )
    assert used(fields) == pytest.approx(tokens, rel=0.25)


@every_stream_way
async def test_a_stream_that_the_provider_cuts_is_estimated(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """By what was seen; where every chunk reports usage, the last is exact."""
    provider.script(lambda _: Script(completion_tokens=100, fault="cut:60"))
    with suppress(httpx.RemoteProtocolError):
        await ask(running, way, task)
    fields = await running.settled(task, 1)
    truth = provider.totals()
    total = truth.prompt_tokens + truth.completion_tokens
    assert fields["tokens.H"] == "0"
    assert used(fields) == (total if way.knows_usage_early else pytest.approx(total, rel=0.25))


@every_stream_way
async def test_a_stream_that_the_client_leaves_is_charged(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """What was seen where the provider stops then, everything where it goes on."""
    provider.script(lambda _: Script(completion_tokens=200, chunk_delay_ms=5))
    headers = {"x-task-id": task, **VERSION}
    async with running.client() as client:
        async with client.stream("POST", way.target, json=way.body, headers=headers) as answer:
            async for _ in answer.aiter_bytes():
                if provider.journal[0].completion_tokens >= 40:
                    break
    fields = await running.settled(task, 1)
    await until(lambda: provider.journal[0].aborted or provider.journal[0].finished)
    truth = provider.totals()
    assert fields["tokens.H"] == "0"
    tokens = text_rule(way.body.get("model", "")).scaled(
        truth.prompt_tokens + truth.completion_tokens
    )
    assert used(fields) == pytest.approx(tokens, rel=0.25)


@every_json_way
async def test_an_answer_that_the_client_leaves_is_charged_in_full(
    running: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """It is read to its end, for it is billed in full."""
    provider.script(lambda _: Script(completion_tokens=37, ttfb_ms=300))
    calling = asyncio.ensure_future(ask(running, way, task))
    await until(lambda: provider.journal)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await until(lambda: provider.journal[0].finished)
    assert_exact(await running.settled(task, 1), provider)


@every_way
async def test_nothing_passes_a_spent_budget(
    enforcing: Gateway, provider: FakeProvider, task: str, way: Way
) -> None:
    """Whatever dialect spent it, each refuses in the shape that its clients read."""
    provider.script(lambda _: Script(prompt_tokens=60_000))
    await ask(enforcing, way, task)
    await enforcing.settled(task, 1)
    provider.reset()
    answer = await ask(enforcing, way, task)
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    if way.target.startswith(GEMINI):
        assert error["status"] == "FAILED_PRECONDITION"
        assert error["details"][0]["reason"] == "runaway_task"
    else:
        assert (error["type"], error["code"]) == ("billing_error", "runaway_task")
    assert provider.journal == []


async def test_counting_tokens_is_free(enforcing: Gateway, provider: FakeProvider) -> None:
    """It is relayed and not metered."""
    answer = await ask(enforcing, Way("/v1/messages/count_tokens", MESSAGES), "counts")
    assert answer.json()["input_tokens"] > 10
    assert enforcing.task("counts") == {}


@pytest.mark.parametrize("end", ["retrieve", "cancel"])
async def test_a_response_in_the_background_is_settled_when_it_is_fetched(
    enforcing: Gateway, provider: FakeProvider, task: str, end: str
) -> None:
    """Charged its hold, then what it used: once, however often and through whichever worker."""
    tags = {"x-task-id": task}
    async with openai.AsyncOpenAI(
        base_url=f"{enforcing.url}/v1", api_key="sk-test", default_headers=tags, max_retries=0
    ) as client:
        queued = await client.responses.create(**RESPONSE, background=True)
        assert queued.status == "queued"
        fields = await enforcing.settled(task, 1)
        assert used(fields) > 300
        assert fields["estimated.calls"] == "1"
    truth = provider.totals()
    total = truth.prompt_tokens + truth.completion_tokens
    for _ in range(4):  # each on a connection of its own: both workers take part
        async with openai.AsyncOpenAI(
            base_url=f"{enforcing.url}/v1", api_key="sk-test", max_retries=0
        ) as client:
            done = await getattr(client.responses, end)(queued.id)
        assert done.usage is not None
        assert done.usage.total_tokens == total
        await until(lambda: used(enforcing.task(task)) == total, "the true usage")
    fields = await enforcing.settled(task, 1)
    assert fields["raw.output"] == str(truth.completion_tokens)
    assert (fields["estimated.calls"], fields["estimated.tokens"]) == ("0", "0")
    assert (fields["tokens.H"], fields["calls.H"]) == ("0", "0")


async def test_a_response_that_nobody_asked_for_here_is_free(
    enforcing: Gateway, provider: FakeProvider
) -> None:
    """It is relayed as it is."""
    async with enforcing.client() as client:
        answer = await client.get("/v1/responses/resp_unknown", headers={"x-task-id": "fetches"})
    assert answer.status_code == 404
    assert enforcing.task("fetches") == {}


async def test_images(running: Gateway, provider: FakeProvider, task: str) -> None:
    """Their tokens count as those of any call; without a report the hold is charged."""
    body = {"model": "gpt-image-1", "prompt": SAY}
    provider.script(lambda _: Script(completion_tokens=37))
    await ask(running, Way("/v1/images/generations", body), task)
    assert_exact(await running.settled(task, 1), provider)
    provider.script(lambda _: Script(completion_tokens=37, fault="missing_usage"))
    await ask(running, Way("/v1/images/generations", body), task)
    assert (await running.settled(task, 2))["estimated.calls"] == "1"


async def test_embeddings(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """Only their input counts."""
    body = {"model": "text-embedding-3-small", "input": ["One text.", "And another."]}
    await ask(gateway, Way("/v1/embeddings", body), task)
    fields = await gateway.settled(task, 1)
    assert_exact(fields, provider)
    assert "raw.output" not in fields
