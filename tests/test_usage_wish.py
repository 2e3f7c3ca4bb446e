"""An upstream that refuses our wish for usage: asked again without it, and remembered."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import openai
import pytest
import pytest_asyncio

from gateway.core.errors import UpstreamError
from gateway.usage_wish import REFUSED, UsageWishes, WishGate
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, bench
from tests.test_relay import JSON, Line

MESSAGES = [{"role": "user", "content": "hello"}]
SERVES = Script(prompt_tokens=10, completion_tokens=5)
ERROR = b'{"error":{"message":"stream_options: not permitted"}}'
OTHER_ERROR = b'{"error":{"message":"messages: required"}}'
BROKEN = UpstreamError("upstream_broken", "cut", sent=True)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=replace(SERVES, fault="no_stream_options:422")) as provider:
        yield provider


@pytest_asyncio.fixture
async def serving(valkey: str, provider: FakeProvider, tenant: str) -> AsyncIterator[Bench]:
    async with bench(valkey, provider.base_url, tenant) as serving:
        yield serving


async def text_of(serving: Bench, model: str = "m", task: str = "T", **fields: object) -> str:
    """Return what one stream says to the official SDK, which asks once."""
    calls = len(serving.told.calls)
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{serving.port}/v1",
        api_key="sk-client",
        max_retries=0,
        http_client=httpx.AsyncClient(trust_env=False),
    ) as client:
        stream = await client.chat.completions.create(
            model=model,
            messages=MESSAGES,  # type: ignore[arg-type]
            stream=True,
            extra_headers={"X-Task-Id": task},
            extra_body=fields,
        )
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    await serving.recorded(calls + 1)
    return said


def wishes(provider: FakeProvider) -> list[object]:
    return [json.loads(request.body).get("stream_options") for request in provider.requests]


@pytest.mark.parametrize("status", [400, 422])
async def test_the_sdk_sees_one_good_stream(
    serving: Bench, provider: FakeProvider, status: int
) -> None:
    """Of one call under one hold, whose usage is estimated; later ones are not asked at all."""
    provider.script(lambda _: replace(SERVES, fault=f"no_stream_options:{status}"))
    assert await text_of(serving)
    assert wishes(provider) == [{"include_usage": True}, None]
    (record,) = serving.told.calls
    assert (record.status, record.source, record.passed_over) == (200, "estimated", ())
    task = serving.task("T")
    assert task["calls.S"] == "1"
    assert {task.get(name, "0") for name in ("tokens.H", "calls.H", "inflight")} == {"0"}
    assert await text_of(serving)
    assert wishes(provider)[2:] == [None]
    assert serving.told.calls[1].source == "estimated"


async def test_models_are_remembered_and_the_upstream_is_told_of_once(
    serving: Bench, provider: FakeProvider
) -> None:
    """Behind one upstream may be servers of several kinds."""
    await text_of(serving)
    await text_of(serving, "other")
    assert len(wishes(provider)) == 4
    (event,) = serving.events("usage_not_offered")
    assert event["upstream"] == "openai"


async def test_what_the_client_asks_for_is_its_own_matter(
    serving: Bench, provider: FakeProvider
) -> None:
    """Its own options, refused once more, are the answer it gets; nothing is remembered."""
    with pytest.raises(openai.UnprocessableEntityError):
        await text_of(serving, stream_options={"include_usage": True})
    assert len(provider.requests) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        await text_of(serving, stream_options={"include_obfuscation": False})
    assert wishes(provider)[1:] == [
        {"include_obfuscation": False, "include_usage": True},
        {"include_obfuscation": False},
    ]
    assert not serving.events("usage_not_offered")


async def test_another_error_is_passed_on(serving: Bench, provider: FakeProvider) -> None:
    provider.script(lambda _: replace(SERVES, fault="status:400"))
    with pytest.raises(openai.BadRequestError, match="Request failed"):
        await text_of(serving)
    assert len(provider.requests) == 1


async def test_memory_is_bounded() -> None:
    told = UsageWishes()
    assert told.refused("local", "m")
    assert not told.may_ask("local", "m")
    assert told.may_ask("openai", "m")
    assert not any([told.refused("local", f"m{number}") for number in range(1_024)])
    assert told.may_ask("local", "m")


# The gate by itself -------------------------------------------------------------------------------


def gate_of(line: Line) -> WishGate:
    line.follow()
    return WishGate(line.relay, line.relay)


async def test_an_error_about_the_wish_is_not_the_client_s() -> None:
    line = Line()
    gate = gate_of(line)
    gate.on_head(400, JSON, None)
    gate.on_body(ERROR[:20])
    gate.on_body(ERROR[20:])
    gate.on_end()
    assert line.relay.passed_over == REFUSED
    assert line.client.heard == []


@pytest.mark.parametrize("status", [200, 400, 429])
async def test_other_answers_go_through(status: int) -> None:
    line = Line()
    gate = gate_of(line)
    gate.on_head(status, JSON, None)
    gate.on_body(OTHER_ERROR)
    gate.on_end()
    assert line.client.kinds[0] == "start"
    assert line.client.body == OTHER_ERROR
    assert line.relay.complete


async def test_a_long_error_is_not_held_back() -> None:
    line = Line()
    gate = gate_of(line)
    gate.on_head(422, JSON, None)
    gate.on_body(b"x" * 65_536)
    assert line.client.heard == []
    gate.on_body(ERROR)
    gate.on_end()
    assert len(line.client.body) == 65_536 + len(ERROR)
    assert not line.relay.passed_over


async def test_an_error_that_breaks_off_is_the_client_s() -> None:
    line = Line()
    gate = gate_of(line)
    gate.on_head(422, JSON, None)
    gate.on_body(ERROR)
    gate.on_broken(BROKEN)
    assert line.client.kinds == ["start", "write", "abort"]
    assert line.relay.error is BROKEN


@pytest.mark.parametrize("early", [True, False], ids=["before the head", "behind it"])
async def test_a_client_that_has_left_needs_no_other_answer(early: bool) -> None:
    line = Line()
    gate = gate_of(line)
    if early:
        line.relay.client_left()
    gate.on_head(400, JSON, None)
    line.relay.client_left()
    gate.on_body(ERROR)
    gate.on_end()
    assert not line.relay.passed_over
