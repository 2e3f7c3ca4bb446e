"""`tasks.budget_comment`: the SDKs read a stream to its end, whose last line tells what is left."""

import re
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio

from gateway.core.admission import Balance
from gateway.core.budget import TokenWeights
from gateway.core.budget_comment import BudgetComment
from gateway.core.configuration import UpstreamSettings
from gateway.core.dialects.gemini import GEMINI
from gateway.core.headers import Headers
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import Bench, bench
from tests.test_relay import BROKEN, DONE, SSE, TEXT_EVENT, USAGE_EVENT, Line

SAY = "hello"
CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": SAY}], "stream": True}
COMMENT = BudgetComment("T", "-", Balance(100, 0, 120, 120, 200, 10, 0), 7, TokenWeights())
TOLD = b": tollgate task=T phase=- used=15 limit=100 remaining=85 status=within\n"


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


@pytest_asyncio.fixture
async def serving(valkey: str, provider: FakeProvider, tenant: str) -> AsyncIterator[Bench]:
    others = {name: UpstreamSettings(provider.base_url, name) for name in ("anthropic", "gemini")}
    async with bench(
        valkey, provider.base_url, tenant, others=others, budget_comment=True
    ) as serving:
        yield serving


async def test_GW8_a_stream_ends_with_what_is_left(serving: Bench) -> None:
    """In every dialect whose clients read over it, each call counted in; without a task, nothing."""
    url, headers = f"http://127.0.0.1:{serving.port}", {"X-Task-Id": "T", "X-Task-Phase": "PLAN"}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", {"model": "m", "input": SAY, "stream": True}),
        ("/v1/messages", {**CHAT, "max_tokens": 50}),
    ]
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        for number, (path, body) in enumerate(asked, 1):
            answer = await client.post(path, json=body, headers=headers)
            await serving.recorded(number)
            used = 15 * number
            assert line_of(answer.content) == (
                f": tollgate task=T phase=PLAN used={used} limit=23400 remaining={23_400 - used} "
                "status=within"
            )
            assert serving.task("T")["tokens.S"] == str(used)
        path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
        gemini = {"contents": [{"parts": [{"text": SAY}]}]}
        assert b"tollgate" not in (await client.post(path, json=gemini, headers=headers)).content
        assert b"tollgate" not in (await client.post(asked[0][0], json=CHAT)).content


async def test_the_sdks_read_over_it(serving: Bench) -> None:
    """OpenAI's, of both APIs, and Anthropic's: to the end, without an error, the same text."""
    url, headers = f"http://127.0.0.1:{serving.port}", {"X-Task-Id": "T"}
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="sk",
        default_headers=headers,
        http_client=httpx.AsyncClient(trust_env=False),
    ) as client:
        chunks = await client.chat.completions.create(**CHAT)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert said
        responses = await client.responses.create(model="m", input=SAY, stream=True)
        events = [event async for event in responses]
        assert events[-1].type == "response.completed"
    async with (
        anthropic.AsyncAnthropic(
            base_url=url,
            api_key="sk",
            default_headers=headers,
            http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
        ) as other,
        other.messages.stream(
            model="m", max_tokens=50, messages=[{"role": "user", "content": SAY}]
        ) as stream,
    ):
        assert await stream.get_final_text() == said
    await serving.recorded(3)


def line_of(body: bytes) -> str:
    """The last line of a stream, behind a whole event, of which the provider sent every byte."""
    events, blank, line = body.rpartition(b"\n\n")
    assert blank
    assert re.fullmatch(rb": tollgate [^\n]*\n", line)
    assert b"tollgate" not in events
    return line.decode().rstrip("\n")


def passed(
    pieces: list[bytes], *, headers: Headers = SSE, length: int | None = None, status: int = 200
) -> bytes:
    """What comes behind the pieces that a provider sent."""
    line = commented()
    line.follow()
    line.relay.on_head(status, headers, length)
    for piece in pieces:
        line.relay.on_body(piece)
    line.relay.on_end()
    assert line.client.kinds[-1] == "finish"
    sent = b"".join(pieces)
    assert line.client.body.startswith(sent)
    return line.client.body[len(sent) :]


def commented(**how: Any) -> Line:
    return Line(stream=True, comment=COMMENT, **how)


async def test_it_stands_behind_a_whole_event_of_a_stream_that_can_be_read() -> None:
    assert passed([TEXT_EVENT, USAGE_EVENT, DONE]) == TOLD
    assert passed([TEXT_EVENT, USAGE_EVENT, DONE[:-1]]) == b""
    assert passed([TEXT_EVENT], headers=[*SSE, (b"Content-Encoding", b"GZIP")]) == b""
    assert passed([TEXT_EVENT], headers=[(b"content-type", b"application/x-ndjson")]) == b""
    assert passed([TEXT_EVENT], length=len(TEXT_EVENT)) == b""
    assert passed([TEXT_EVENT], status=201) == b""
    assert passed([TEXT_EVENT]).split()[4] == b"used=17", "nothing reported: as held"


@pytest.mark.parametrize("unfinished", [b'data: {"cho', b"data: " + b"x" * 20_000])
async def test_never_within_an_event_that_was_held_back(unfinished: bytes) -> None:
    line = commented(hide_usage=True)
    line.follow()
    line.relay.on_head(200, SSE, 99)
    line.relay.on_body(TEXT_EVENT + USAGE_EVENT + unfinished)
    line.relay.on_end()
    assert line.client.body == TEXT_EVENT + unfinished


async def test_never_in_a_stream_that_was_cut_or_left() -> None:
    for end in ("stop", "break", "leave"):
        line = commented()
        line.follow()
        line.relay.on_head(200, SSE, None)
        line.relay.on_body(TEXT_EVENT)
        if end == "stop":
            assert line.relay.stop("task_budget_exceeded", "over")
        elif end == "break":
            line.relay.on_broken(BROKEN)
        else:
            line.relay.client_left()
        assert b"tollgate" not in line.client.body


async def test_never_where_clients_take_it_for_json() -> None:
    line = commented(wire=GEMINI)
    line.follow()
    line.relay.on_head(200, SSE, None)
    line.relay.on_body(TEXT_EVENT)
    line.relay.on_end()
    assert line.client.body == TEXT_EVENT
