"""The fake provider when things go wrong: what the client sees, and what the journal says."""

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from loadtest.fake_provider import FakeProvider
from tests.loadtest.wire import Reply, Wire, chat, request

WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def play(provider: FakeProvider, fault: str, **fields: object) -> Reply:
    """Ask for a chat answer with a fault; fails if a broken answer leaves the connection open."""
    async with Wire(provider.base_url) as wire:
        reply = await wire.ask(chat({"x-fake-fault": fault}, **fields))
        assert reply.complete or await wire.is_closed()
    return reply


def contents(reply: Reply) -> list[str]:
    deltas = [chunk["choices"][0]["delta"] for chunk in reply.chunks if chunk.get("choices")]
    return [delta["content"] for delta in deltas if delta.get("content")]


async def test_missing_usage(provider: FakeProvider) -> None:
    """No usage anywhere, though it was asked for; the journal knows what was used."""
    assert "usage" not in (await play(provider, "missing_usage")).json
    streamed = await play(provider, "missing_usage", **WITH_USAGE)
    assert all(chunk["usage"] is None for chunk in streamed.chunks)
    assert [entry.usage_sent for entry in provider.journal] == [False, False]
    assert provider.totals().completion_tokens == 40


async def test_zero_usage(provider: FakeProvider) -> None:
    """A usage of nothing for an answer of something."""
    answer = (await play(provider, "zero_usage")).json
    assert (answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"]) == (0, 0)
    assert answer["choices"][0]["message"]["content"]
    streamed = await play(provider, "zero_usage", **WITH_USAGE)
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == 0
    assert provider.totals().completion_tokens == 40


async def test_cut_stream(provider: FakeProvider) -> None:
    """Three tokens arrive, then the connection closes in the middle of the body."""
    reply = await play(provider, "cut:3", **WITH_USAGE)
    assert (len(contents(reply)), reply.complete) == (3, False)
    entry = provider.journal[0]
    assert (entry.completion_tokens, entry.status) == (3, 200)
    assert (entry.finished, entry.aborted, entry.usage_sent) == (False, False, False)


async def test_cut_json(provider: FakeProvider) -> None:
    """Ten bytes arrive; the call is billed in full all the same."""
    reply = await play(provider, "cut:10")
    assert (len(reply.body), reply.complete) == (10, False)
    assert (provider.journal[0].completion_tokens, provider.journal[0].finished) == (20, False)


@pytest.mark.parametrize("fields", [{}, WITH_USAGE])
async def test_truncate(provider: FakeProvider, fields: dict[str, object]) -> None:
    """Everything arrives but the end of the body: the usage is there, the framing is broken."""
    reply = await play(provider, "truncate", **fields)
    assert not reply.complete
    assert b'"total_tokens":28' in reply.body
    entry = provider.journal[0]
    assert (entry.usage_sent, entry.finished, entry.completion_tokens) == (True, False, 20)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
        (418, openai.APIStatusError),
    ],
)
async def test_statuses(
    provider: FakeProvider, sdk: AsyncOpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    """The SDK raises as for the real provider; nothing is billed."""
    with pytest.raises(error) as caught:
        await sdk.chat.completions.create(
            model="m", messages=[], stream=True, extra_headers={"x-fake-fault": f"status:{status}"}
        )
    retry_after = "1" if status in (429, 529) else None
    assert caught.value.response.headers.get("retry-after") == retry_after
    assert (provider.journal[0].status, provider.journal[0].model) == (status, "m")
    assert provider.totals().calls == 0


async def test_error_event(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """The SDK gets two tokens, then raises; not streamed, a 200 carries the error."""
    headers = {"x-fake-fault": "error_event:2"}
    seen = []
    with pytest.raises(openai.APIError):
        async with await sdk.chat.completions.create(
            model="m", messages=[], stream=True, extra_headers=headers
        ) as chunks:
            async for chunk in chunks:
                seen.append(chunk)
    assert len(seen) == 1 + 2
    assert provider.journal[0].completion_tokens == 2
    assert not provider.journal[0].finished
    reply = await play(provider, "error_event:2")
    assert (reply.status, set(reply.json)) == (200, {"error"})
    assert not provider.journal[1].usage_sent


async def test_hang(provider: FakeProvider) -> None:
    """No byte ever comes; the journal has the call, unanswered, until the client gives up."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-fault": "hang"}))
        await provider.until(lambda: bool(provider.journal))
        assert (provider.journal[0].status, provider.journal[0].aborted) == (0, False)
    await provider.until(lambda: provider.journal[0].aborted)
    assert provider.totals().calls == 0


async def test_stall(provider: FakeProvider) -> None:
    """Two tokens come, or ten bytes, then nothing more."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-fault": "hang:2"}, stream=True))
        await wire.head()
        assert b"assistant" in await wire.chunk()
        assert all([await wire.chunk() for _ in range(2)])
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-fault": "hang:10"}))
        await wire.head()
        assert len(await wire.reader.readexactly(10)) == 10
    await provider.until(lambda: all(entry.aborted for entry in provider.journal))
    assert [entry.completion_tokens for entry in provider.journal] == [2, 20]


async def test_reset(provider: FakeProvider) -> None:
    """The connection breaks before any byte, and not by a proper close."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-fault": "reset"}))
        with pytest.raises(ConnectionResetError):
            await wire.reader.read(1)
    assert (provider.journal[0].status, provider.journal[0].finished) == (0, False)


async def test_faults_hold_for_other_routes_too(provider: FakeProvider) -> None:
    """A provider that is down is down for every route, but the journal can still be read."""
    async with Wire(provider.base_url) as wire:
        down = {"x-fake-fault": "status:503"}
        assert (await wire.ask(request("GET", "/v1/models", headers=down))).status == 503
        assert (await wire.ask(request("POST", "/v1/embeddings", b"{}", down))).status == 503
        assert (await wire.ask(request("GET", "/_journal", headers=down))).status == 200


async def test_an_aborted_stream_stops(provider: FakeProvider) -> None:
    """A client that leaves after three tokens is billed for those made by then, and no more."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-chunk-delay-ms": "2", "x-request-tag": "a"}, stream=True))
        await wire.head()
        for _ in range(1 + 3):
            await wire.chunk()
    await provider.until(lambda: provider.journal[0].aborted)
    entry = provider.journal[0]
    assert 3 <= entry.completion_tokens < 20
    assert (entry.finished, entry.usage_sent, entry.tag) == (False, False, "a")
    assert provider.totals().completion_tokens == entry.completion_tokens


async def test_a_slow_reader_stops_the_generation(provider: FakeProvider) -> None:
    """Without any delay, tokens are still not made for a client that does not take them."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-completion-tokens": "1000000"}, stream=True))
        await wire.head()
    await provider.until(lambda: provider.journal[0].aborted)
    assert 0 < provider.journal[0].completion_tokens < 100_000


async def test_a_call_that_is_not_streamed_is_billed_though_the_client_left(
    provider: FakeProvider, sdk: AsyncOpenAI
) -> None:
    """The provider finishes what it began; the client's time-out changes nothing of the bill."""
    with pytest.raises(openai.APITimeoutError):
        await sdk.chat.completions.create(
            model="m",
            messages=[],
            timeout=httpx.Timeout(5, read=0.02),
            extra_headers={"x-fake-ttfb-ms": "2000"},
        )
    await provider.until(lambda: provider.journal[0].aborted)
    entry = provider.journal[0]
    assert (entry.completion_tokens, entry.finished, entry.usage_sent) == (20, False, False)
    assert provider.totals().calls == 1


async def test_totals_add_up_over_good_and_broken_calls(provider: FakeProvider) -> None:
    """Only what was answered with 200 counts, and each for what was really made."""
    await play(provider, "")
    await play(provider, "", **WITH_USAGE)
    await play(provider, "cut:3", **WITH_USAGE)
    await play(provider, "status:500")
    totals = provider.totals()
    assert (totals.calls, totals.prompt_tokens, totals.completion_tokens) == (3, 24, 43)
